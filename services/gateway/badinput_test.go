package gateway_test

import (
	"bytes"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/errs"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"

	"github.com/berth-dev/berth/services/gateway"
)

const (
	malformed     = linkv1.CloseCode_CLOSE_CODE_MALFORMED_FRAME
	tooLarge      = linkv1.CloseCode_CLOSE_CODE_FRAME_TOO_LARGE
	violation     = linkv1.CloseCode_CLOSE_CODE_PROTOCOL_VIOLATION
	protocolError = linkv1.CloseCode(1002) // WebSocket's own
)

// Each thing that no server should say gets its code, whatever it is at the level of WebSocket or of the link.
func TestBadInputGetsItsCloseCode(t *testing.T) {
	w := start(t, nil)
	text := func(s string) []byte { return frame(nil, fin|opText, []byte(s)) }
	binary := func(s string) []byte { return frame(nil, fin|opBinary, []byte(s)) }
	const asProto, asJSON = "berth.v1.proto", "berth.v1.json"
	for name, c := range map[string]struct {
		subprotocol string
		send        []byte
		want        linkv1.CloseCode
	}{
		"text where binary was agreed":    {asProto, text(`{"hello":{}}`), malformed},
		"binary where text was agreed":    {asJSON, binary("\x0a\x00"), malformed},
		"proto in a text message":         {asJSON, text("\x0a\x00"), malformed},
		"a frame cut short":               {asProto, binary("\x0a\x05\x0a"), malformed},
		"JSON cut short":                  {asJSON, text(`{"hello":{"instances":[{`), malformed},
		"JSON that is no object":          {asJSON, text(`["hello"]`), malformed},
		"two frames in one":               {asJSON, text(`{"hello":{}}{"hello":{}}`), malformed},
		"two kinds in one":                {asJSON, text(`{"hello":{},"ack":{}}`), malformed},
		"JSON that is no UTF-8":           {asJSON, text("{\"hello\":{\"sdk\":\"\xff\"}}"), malformed},
		"JSON of a hundred thousand ends": {asJSON, text(`{"later":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`), malformed},
		"a request before hello":          {asJSON, text(`{"request":{"id":1,"method":"Link"}}`), violation},
		"a welcome":                       {asJSON, text(`{"welcome":{}}`), violation},
		"a request numbered below 1":      {asJSON, append(text(`{"hello":{}}`), text(`{"request":{"id":-1}}`)...), violation},
		"a second hello":                  {asJSON, append(text(`{"hello":{}}`), text(`{"hello":{}}`)...), violation},
		"JSON above the limit":            {asJSON, text(`{"later":"` + strings.Repeat("x", 2<<20) + `"}`), tooLarge},
		"a compressed frame":              {asProto, frame(nil, fin|rsv1|opBinary, []byte("\xff\xff\xff\xff")), protocolError},
		"a compressed frame of JSON":      {asJSON, frame(nil, fin|rsv1|opText, bytes.Repeat([]byte{0}, 1000)), protocolError},
		"a frame without a mask":          {asProto, []byte{fin | opBinary, 2, 0x0a, 0}, 0}, // cut without a word
		"a ping in fragments":             {asProto, frame(nil, opPing, nil), protocolError},
		"a ping of a kilobyte":            {asProto, frame(nil, fin|opPing, make([]byte, 1024)), protocolError},
		"a frame of no known opcode":      {asProto, frame(nil, fin|0x5, nil), protocolError},
		"a continuation of nothing":       {asProto, frame(nil, fin|opContinuation, []byte("x")), protocolError},
	} {
		t.Run(name, func(t *testing.T) {
			s := w.raw(w.backend.issuer.pair(t), c.subprotocol, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n")
			s.tb = t
			if got := s.head["Sec-Websocket-Extensions"]; got != nil {
				t.Fatalf("the gateway agreed to %v", got)
			}
			s.write(c.send)
			if got := s.code(); got != c.want {
				t.Errorf("closed with %v, want %v", got, c.want)
			}
		})
	}
	// None of it was any matter of anybody else.
	if r := w.open(w.backend.issuer.pair(t), &linkv1.Hello{}).call("Echo", "", nil); r.GetError() != nil {
		t.Errorf("%v", r)
	}
}

// A message in fragments has no length that could be looked at first. It is cut at the limit, and what goes on to come is not kept.
func TestAFragmentedGiantIsCutAtTheLimit(t *testing.T) {
	w := start(t, func(c *gateway.Config) { c.Limits.FrameBytes = 256 << 10 })
	for _, subprotocol := range []string{"berth.v1.proto", "berth.v1.json"} {
		s := w.raw(w.backend.issuer.pair(t), subprotocol, "")
		op := byte(opBinary)
		if subprotocol == "berth.v1.json" {
			op = opText
		}
		before := memory()
		s.write(frame(nil, op, nil))
		part := frame(nil, opContinuation, make([]byte, 64<<10))
		ended := make(chan int64)
		go func() { // it goes on whatever is said
			var n int64
			for n < 1<<30 {
				if _, err := s.conn.Write(part); err != nil {
					break
				}
				n += 64 << 10
			}
			ended <- n
		}()
		if got := s.code(); got != tooLarge {
			t.Errorf("%s: closed with %v", subprotocol, got)
		}
		_ = s.conn.SetDeadline(time.Now().Add(patience))
		if n := next(t, "the end of the giant", ended); n >= 1<<30 {
			t.Errorf("%s: a gigabyte was taken", subprotocol)
		}
		if grown := memory() - before; grown > 64<<20 {
			t.Errorf("%s: memory grew by %d MiB", subprotocol, grown>>20)
		}
	}
}

// Pings are answered one by one, by the goroutine that reads: nothing is gathered.
func TestAHundredThousandPings(t *testing.T) {
	w := start(t, nil)
	s, request := w.greeted(w.backend.issuer.pair(t))
	const n = 100_000
	before := memory()
	var pings []byte
	for range n {
		pings = frame(pings, fin|opPing, []byte("ping"))
	}
	go func() { _, _ = s.conn.Write(append(pings, request...)) }()
	if r, pongs := s.answer(); string(r.GetResult()) != "x" || pongs != n {
		t.Errorf("%d pongs, and then %v", pongs, r)
	}
	if grown := memory() - before; grown > 64<<20 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
}

// Who pings and does not read is not read either: the gateway keeps no more than the kernel does, and lets go of it.
func TestWhoPingsAndDoesNotReadIsCut(t *testing.T) {
	w := start(t, func(c *gateway.Config) { c.Heartbeat = 100 * time.Millisecond })
	s, _ := w.greeted(w.backend.issuer.pair(t))
	before := memory()
	var pings []byte
	for range 10_000 {
		pings = frame(pings, fin|opPing, make([]byte, 125))
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			if _, err := s.conn.Write(pings); err != nil {
				return
			}
		}
	}()
	next(t, "the end of the session", w.backend.sessions.closed)
	next(t, "the end of the pings", stopped)
	if grown := memory() - before; grown > 64<<20 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
}

func TestAHundredThousandUnknownFrames(t *testing.T) {
	w := start(t, nil)
	s, request := w.greeted(w.backend.issuer.pair(t))
	before := memory()
	var frames []byte
	for range 100_000 {
		frames = frame(frames, fin|opBinary, []byte{0xfa, 0x01, 0x00}) // field 31, which no version has
	}
	go func() { _, _ = s.conn.Write(append(frames, request...)) }()
	if r, _ := s.answer(); string(r.GetResult()) != "x" {
		t.Errorf("%v", r)
	}
	if grown := memory() - before; grown > 64<<20 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}

	j := w.openJSON(w.backend.issuer.pair(t))
	for range 1000 {
		j.say(`{"later":{"x":[1,{"y":null}]}}`)
	}
	if answer := j.ask("UpdateGameData", "", `{}`); answer["result"] == nil {
		t.Errorf("%v", answer)
	}
}

// An acknowledgement is for what was sent. One for an instance that is not linked is dropped, and one that is ahead of everything takes nothing away that
// the server has not been given.
func TestMalformedAcksTakeNothingAway(t *testing.T) {
	w := start(t, nil)
	id := uuid.NewString()
	s := w.linked(w.backend.issuer.pair(t), id)
	w.deliver(delivery(id, 7, 0))
	s.notified()
	ack := func(instance string, offset int64) {
		s.send(&linkv1.Frame{Kind: &linkv1.Frame_Ack{Ack: &linkv1.Ack{InstanceId: instance, Offset: offset}}})
	}
	ack("", 7)
	ack("\x00", 7)
	ack(uuid.NewString(), 7)
	ack(id, math.MinInt64)
	ack(id, math.MaxInt64)
	s.send(&linkv1.Frame{Kind: &linkv1.Frame_Ack{}})
	for {
		got := next(t, "an acknowledgement", w.backend.sessions.acked)
		if got.GetInstanceId() != id || got.GetOffset() > 7 || got.GetOffset() < 0 {
			t.Fatalf("passed on: %v", got)
		}
		if got.GetOffset() == 7 {
			break
		}
	}
	w.commit(delivery(id, 8, 7)) // nobody is told: only the reminder brings it, and it must not acknowledge it first
	w.backend.sessions.set(func(s *sessions) { s.undelivered = []string{id} })
	if got := s.notified(); got != 8 {
		t.Errorf("notified of %d", got)
	}
}

// The key of another server's session, or of another namespace's, is worth nothing, and its owner is not disturbed.
func TestTheResumeKeyOfAnotherServerIsWorthNothing(t *testing.T) {
	one, two := pairOfGateways(t, nil)
	owner := one.plays(one.register())
	thief := two.register()
	own := two.open(thief, &linkv1.Hello{}) // the thief has a session of its own
	two.refused(thief, &linkv1.Hello{ResumeKey: owner.welcome.GetResumeKey(), Instances: []*linkv1.HelloInstance{{InstanceId: owner.instance, LinkEpoch: owner.epoch}}})
	owner.works("still mine")
	if r := own.call("UpdateGameData", owner.instance, nil); r.GetError().GetReason() == "" {
		t.Errorf("the thief may write: %v", r)
	}

	fresh := one.register() // without a session: it is let in, and gets nothing of the owner's
	s := two.open(fresh, &linkv1.Hello{ResumeKey: owner.welcome.GetResumeKey(), Instances: []*linkv1.HelloInstance{{InstanceId: owner.instance, LinkEpoch: owner.epoch}}})
	if len(s.welcome.GetInstances()) != 0 || s.welcome.GetSessionId() == owner.welcome.GetSessionId() {
		t.Errorf("%v", s.welcome)
	}
	owner.works("still mine, too")
}

// A handshake that drips holds a connection for as long as headers may take, and no longer; one that is through has as long for hello, however it comes.
func TestAHandshakeThatDripsIsCut(t *testing.T) {
	w := start(t, func(c *gateway.Config) { c.HelloTimeout = 50 * time.Millisecond })
	creds := w.backend.issuer.pair(t)
	drip := func(conn io.Writer, what string) <-chan struct{} {
		cut := make(chan struct{})
		go func() {
			defer close(cut)
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for i := 0; ; i++ { // once all was said, the last byte again and again
				if _, err := io.WriteString(conn, what[min(i, len(what)-1):][:1]); err != nil {
					return
				}
				<-tick.C
			}
		}()
		return cut
	}
	t.Run("before the upgrade", func(t *testing.T) {
		conn := w.tcp()
		request := strings.TrimSuffix(upgradeRequest(creds, "berth.v1.proto", "X: "), "\r\n\r\n") // the last header has no end
		cut := drip(conn, request+"x")
		next(t, "the cut", cut)
	})
	t.Run("before hello", func(t *testing.T) {
		s := w.raw(creds, "berth.v1.json", "")
		cut := drip(s.conn, string(frame(nil, fin|opText, []byte(`{"hello":{"sdk":"`+strings.Repeat("x", 60_000)+`"}}`))))
		if got := s.code(); got != linkv1.CloseCode_CLOSE_CODE_HELLO_TIMEOUT {
			t.Errorf("closed with %v", got)
		}
		next(t, "the cut", cut)
	})
}

// What is wrong with an upgrade is said in HTTP, in the one form.
func TestBadUpgradesAreRefused(t *testing.T) {
	w := start(t, nil)
	creds := w.backend.issuer.pair(t)
	for name, names := range map[string][]string{"another": {"chat"}, "a later one only": {"berth.v2.json"}, "spelt otherwise": {"Berth.V1.Proto"}, "many": {strings.Repeat("a,", 1000) + "b"}} {
		_, resp, err := w.dial(creds, func(h http.Header) { h["Sec-Websocket-Protocol"] = names })
		if err == nil {
			t.Fatalf("%s is taken", name)
		}
		if body := refusal(t, resp); resp.StatusCode != 400 || body.Reason != string(errs.Malformed) {
			t.Errorf("%s: %d %+v", name, resp.StatusCode, body)
		}
	}
}
