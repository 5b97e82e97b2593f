package codec

import (
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

const root = "../../../../"

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(root + path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

var (
	example = regexp.MustCompile("(?s)<!-- frame: ([a-z]+) ?([A-Za-z]*) -->\n```json\n(.*?)```\n")
	fence   = regexp.MustCompile("(?m)^```json$")
)

// Each JSON example of the document is the frame that it is said to be, down to its payload or result, and is what the gateway would write.
func TestTheExamplesOfTheDocument(t *testing.T) {
	doc := read(t, "docs/link-protocol.md")
	examples := example.FindAllStringSubmatch(doc, -1)
	if n := len(fence.FindAllString(doc, -1)); n != len(examples) {
		t.Errorf("the document has %d blocks of JSON, of which %d are marked as frames", n, len(examples))
	}
	shown := make(map[string]bool)
	for _, e := range examples {
		kind, method, text := e[1], e[2], e[3]
		shown[kind] = true
		frame, err := JSON.Decode([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if which := frame.ProtoReflect().WhichOneof(frame.ProtoReflect().Descriptor().Oneofs().ByName("kind")); which == nil || which.JSONName() != kind {
			t.Errorf("%s is no %s", text, kind)
			continue
		}
		throughProto(t, frame, method)
		again, err := JSON.Encode(frame)
		var got, want any
		if err != nil || json.Unmarshal(again, &got) != nil || json.Unmarshal([]byte(text), &want) != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s\nwould be written %s, %v", text, again, err)
		}
	}
	kinds := new(linkv1.Frame).ProtoReflect().Descriptor().Fields()
	for i := range kinds.Len() {
		// An assignment is shown within a sentence.
		if name := kinds.Get(i).JSONName(); !shown[name] && !strings.Contains(doc, "`{\""+name+"\": {") {
			t.Errorf("there is no example of %s", name)
		}
	}
}

// throughProto takes the payload or result of a frame to protobuf and back, as the gateway does, and fails where a member would get lost.
func throughProto(t *testing.T, frame *linkv1.Frame, method string) {
	t.Helper()
	rpc := methodOf(method)
	switch {
	case frame.GetRequest() != nil:
		if rpc == nil || frame.GetRequest().GetMethod() != method {
			t.Fatalf("a request is said to be of method %q: %v", method, frame)
		}
		raw, err := JSON.Payload(method, frame.GetRequest().GetPayload())
		if err != nil {
			t.Errorf("%v: %v", frame, err)
		}
		frame.GetRequest().Payload = written(t, rpc.Input(), raw)
	case frame.GetResponse().GetResult() != nil:
		m, err := newMessage(rpc.Output())
		if err != nil {
			t.Fatal(err)
		}
		if err := reader.Unmarshal(frame.GetResponse().GetResult(), m); err != nil {
			t.Errorf("%v: %v", frame, err)
		}
		raw, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if frame.GetResponse().Outcome.(*linkv1.Response_Result).Result, err = JSON.Result(method, raw); err != nil {
			t.Errorf("%v: %v", frame, err)
		}
	}
}

func written(t *testing.T, d protoreflect.MessageDescriptor, raw []byte) []byte {
	t.Helper()
	m, err := newMessage(d)
	if err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(raw, m); err != nil {
		t.Fatal(err)
	}
	out, err := appendMessage(nil, m.ProtoReflect())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// The document has the messages of frame.proto, without the comments.
func TestTheFramesOfTheDocumentAreThoseOfTheProto(t *testing.T) {
	var want []string
	skip := regexp.MustCompile(`^(//|syntax |package |import |option |$)`)
	for line := range strings.Lines(read(t, "proto/public/berth/link/v1/frame.proto")) {
		if line = strings.TrimSpace(line); !skip.MatchString(line) {
			want = append(want, line)
		}
	}
	_, after, _ := strings.Cut(read(t, "docs/link-protocol.md"), "<!-- frame.proto -->\n```proto\n")
	block, _, _ := strings.Cut(after, "```")
	var got []string
	for line := range strings.Lines(block) {
		if line = strings.TrimSpace(line); line != "" {
			got = append(got, line)
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the document has\n%s\nand frame.proto\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// The table of methods is that of the service, but for what has no place on the link.
func TestTheMethodsOfTheDocument(t *testing.T) {
	_, after, _ := strings.Cut(read(t, "docs/link-protocol.md"), "\n## Methods\n")
	table, _, _ := strings.Cut(after, "\n## ")
	cell := regexp.MustCompile("`([a-z_]+)(\\[\\])?`")
	said := make(map[string]bool)
	for line := range strings.Lines(table) {
		cells := strings.Split(line, " | ")
		rpc := methodOf(strings.Trim(cells[0], "|` "))
		if rpc == nil || len(cells) != 4 {
			continue
		}
		said[string(rpc.Name())] = true
		for i, d := range []protoreflect.MessageDescriptor{rpc.Input(), rpc.Output()} {
			for _, m := range cell.FindAllStringSubmatch(cells[i+1], -1) {
				if d.Fields().ByName(protoreflect.Name(m[1])) == nil {
					t.Errorf("%s has no %s", d.Name(), m[1])
				}
			}
		}
	}
	methods := methodOf("Link").Parent().(protoreflect.ServiceDescriptor).Methods()
	for i := range methods.Len() {
		if name := string(methods.Get(i).Name()); !said[name] && name != "ClaimTokens" && name != "RequestBackfill" {
			t.Errorf("%s is not in the table", name)
		}
	}
}
