package main_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/berth-dev/berth/services/berth/dev"
)

// play is a conversation that is being held.
type play struct {
	t      *testing.T
	berth  *berth
	doc    document
	ws     *websocket.Conn
	values map[string]string // what stands in the document for values that are different each time: names in capitals, and numbers of 16 digits
}

var (
	name   = regexp.MustCompile(`^[A-Z]+(-[A-Z]+)+$`)
	number = regexp.MustCompile(`^\d{16}$`)
	varies = regexp.MustCompile(`"[A-Z]+(-[A-Z]+)+"|\b\d{16}\b`)
)

func TestTheConversationOfTheDocument(t *testing.T) {
	raw, err := os.ReadFile("../../docs/link-protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(raw), "<!-- conversation -->\n```text\n")
	script, _, _ := strings.Cut(after, "```")
	if !ok {
		t.Fatal("the document has no conversation")
	}
	s := start(t, dev.Options{Attach: true})
	id := s.create(t, "attach")
	p := &play{t: t, berth: s, doc: readDocument(t, filepath.Join(s.dir, "bootstrap.json")), values: map[string]string{"INSTANCE-ID": id}}
	p.connect()
	defer func() { _ = p.ws.CloseNow() }()
	lines := bufio.NewScanner(strings.NewReader(script))
	for lines.Scan() {
		p.line(lines.Text())
	}
	if state := s.instance(t, id)["state"]; state != "STATE_ENDED" {
		t.Errorf("at the end the instance is %v", state)
	}
}

func (p *play) line(line string) {
	p.t.Helper()
	who, what, _ := strings.Cut(line, " ")
	what = strings.TrimSpace(what)
	switch {
	case who == "server>":
		p.say(what)
	case who == "gateway>":
		p.hear(what)
	case who == "backend>":
		verb, rest, _ := strings.Cut(what, " ")
		call, body, _ := strings.Cut(rest, " ")
		p.berth.call(p.t, verb, "/"+p.values["INSTANCE-ID"]+call, body)
	case strings.HasPrefix(what, "the connection breaks"):
		_ = p.ws.CloseNow()
	case what == "the server connects again":
		p.connect()
	case what == "the server closes with 1000":
		if err := p.ws.Close(websocket.StatusNormalClosure, ""); err != nil {
			p.t.Errorf("close: %v", err)
		}
	default:
		p.t.Fatalf("what is this? %s", line)
	}
}

func (p *play) connect() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	header := http.Header{"Authorization": {"Bearer " + p.doc.Game}, "Berth-Social-Token": {p.doc.Social}}
	ws, _, err := websocket.Dial(ctx, strings.Replace(p.berth.Gateway, "http", "ws", 1)+"/v1/link", &websocket.DialOptions{HTTPHeader: header, Subprotocols: []string{"berth.v1.json"}})
	if err != nil {
		p.t.Fatal(err)
	}
	p.ws = ws
}

// say sends a frame, with the names replaced by their values.
func (p *play) say(frame string) {
	p.t.Helper()
	frame = varies.ReplaceAllStringFunc(frame, func(v string) string {
		value, ok := p.values[strings.Trim(v, `"`)]
		if !ok {
			p.t.Fatalf("the gateway has not said yet what %s is: %s", v, frame)
		}
		return strings.Replace(v, strings.Trim(v, `"`), value, 1)
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.ws.Write(ctx, websocket.MessageText, []byte(frame)); err != nil {
		p.t.Fatalf("%s: %v", frame, err)
	}
}

// hear receives a frame, which must have what the document says.
func (p *play) hear(frame string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, raw, err := p.ws.Read(ctx)
	if err != nil {
		p.t.Fatalf("instead of %s: %v", frame, err)
	}
	var got, want any
	for text, into := range map[string]*any{frame: &want, string(raw): &got} {
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		if err := d.Decode(into); err != nil {
			p.t.Fatalf("%s: %v", text, err)
		}
	}
	if err := p.has(got, want); err != nil {
		p.t.Fatalf("the document says\n%s\nand the gateway\n%s\n%v", frame, raw, err)
	}
}

// has returns an error unless got has all of want. What a name stands for is what it stood for before.
func (p *play) has(got, want any) error {
	switch want := want.(type) {
	case object:
		members, _ := got.(object)
		for k, v := range want {
			if err := p.has(members[k], v); err != nil {
				return fmt.Errorf("%s: %w", k, err)
			}
		}
		if members != nil {
			return nil
		}
	case []any:
		if list, ok := got.([]any); ok && len(list) == len(want) {
			for i := range want {
				if err := p.has(list[i], want[i]); err != nil {
					return err
				}
			}
			return nil
		}
	case string:
		if value, ok := got.(string); ok && name.MatchString(want) {
			return p.same(want, value)
		}
	case json.Number:
		if value, ok := got.(json.Number); ok && number.MatchString(want.String()) {
			return p.same(want.String(), value.String())
		}
	}
	if !reflect.DeepEqual(got, want) {
		return fmt.Errorf("%v, not %v", got, want)
	}
	return nil
}

// same returns an error unless a value is what the document's stood for before.
func (p *play) same(said, value string) error {
	before, ok := p.values[said]
	if !ok {
		p.values[said] = value
		return nil
	}
	if before != value {
		return fmt.Errorf("%s, and %s was %s before", value, said, before)
	}
	return nil
}
