package bootstrap_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
)

const good = `{
	"v": 1, "namespace": "default", "instance": "i-1", "server": "s-1", "gateway": "http://127.0.0.1:7001",
	"game": "GAMETOKEN", "social": "SOCIALTOKEN",
	"endpoints": [{"name": "game", "host": "127.0.0.1", "port": 7777, "protocol": "tcp"}],
	"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "from": "the future"
}`

func TestParse(t *testing.T) {
	d, err := bootstrap.Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if d.Game.Reveal() != "GAMETOKEN" || d.Social.Reveal() != "SOCIALTOKEN" || d.Instance != "i-1" || d.Server != "s-1" {
		t.Errorf("got %+v", d)
	}
	want := bootstrap.Endpoint{Name: "game", Host: "127.0.0.1", Port: 7777, Protocol: "tcp"}
	if e, ok := d.Endpoint("game"); !ok || e != want {
		t.Errorf("endpoint game is %+v, %v", e, ok)
	}
	if _, ok := d.Endpoint("voice"); ok {
		t.Error("there is an endpoint voice")
	}
}

func TestParseRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ old, new, want string }{
		"not JSON":           {`"v": 1,`, `"v": 1;`, "not JSON"},
		"something behind":   {`"from": "the future"`, `"from": "the future"} {`, "not JSON"},
		"version missing":    {`"v": 1,`, ``, "v is 0"},
		"newer version":      {`"v": 1,`, `"v": 2,`, "v is 2"},
		"no namespace":       {`"namespace": "default",`, ``, "namespace is missing"},
		"no server":          {`"server": "s-1",`, ``, "server is missing"},
		"no gateway":         {`"gateway": "http://127.0.0.1:7001",`, ``, "gateway is missing"},
		"no social token":    {`"social": "SOCIALTOKEN",`, ``, "social is missing"},
		"instance a number":  {`"instance": "i-1"`, `"instance": 1`, "instance is not"},
		"no game token":      {`"game": "GAMETOKEN",`, ``, "game is missing"},
		"ca without https":   {`"v": 1,`, `"v": 1, "ca": "x",`, "ca is there"},
		"ca without a cert":  {`"gateway": "http:`, `"ca": "-----BEGIN CERTIFICATE-----", "gateway": "https:`, "ca has no certificate"},
		"no credentials":     {`"game": "GAMETOKEN", "social": "SOCIALTOKEN",`, ``, "game (or claim) is missing"},
		"tokens and a claim": {`"game": "GAMETOKEN",`, `"game": "GAMETOKEN", "claim": "CLAIMTOKEN",`, "game and claim are both there"},
		"half and a claim":   {`"game": "GAMETOKEN",`, `"claim": "CLAIMTOKEN",`, "social and claim are both there"},
		"claim a number":     {`"game": "GAMETOKEN", "social": "SOCIALTOKEN",`, `"claim": 7,`, "claim is not"},
		"claim, no server": {`"server": "s-1", "gateway": "http://127.0.0.1:7001",
	"game": "GAMETOKEN", "social": "SOCIALTOKEN",`, `"gateway": "http://127.0.0.1:7001", "claim": "CLAIMTOKEN",`, "server is missing"},
		"token of wrong typ": {`"GAMETOKEN"`, `{"a": "GAMETOKEN"}`, "game is not"},
		"gateway relative":   {`"http://127.0.0.1:7001"`, `"127.0.0.1:7001"`, "gateway is not"},
		"gateway with user":  {`"http://127.0.0.1:7001"`, `"http://me:SOCIALTOKEN@127.0.0.1:7001"`, "gateway is not"},
		"gateway of file":    {`"http://127.0.0.1:7001"`, `"file:///etc"`, "gateway is not"},
		"port 0":             {`7777`, `0`, "endpoints[0].port"},
		"port out of range":  {`7777`, `70000`, "endpoints"},
		"protocol":           {`"tcp"`, `"sctp"`, "endpoints[0].protocol"},
		"no host":            {`"host": "127.0.0.1", `, ``, "endpoints[0].host"},
		"too long":           {`"the future"`, `"` + strings.Repeat("x", bootstrap.MaxSize) + `"`, "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			doc := strings.Replace(good, tc.old, tc.new, 1)
			if doc == good {
				t.Fatal("the case changes nothing")
			}
			_, err := bootstrap.Parse([]byte(doc))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got error %v, want one with %q", err, tc.want)
			}
			if strings.Contains(err.Error(), "TOKEN") {
				t.Errorf("the error has a token in it: %v", err)
			}
		})
	}
}

// The document of a registered server names no instance, and none is made up when it is written.
func TestParseWithoutInstance(t *testing.T) {
	d, err := bootstrap.Parse([]byte(strings.Replace(good, `"instance": "i-1",`, ``, 1)))
	if err != nil {
		t.Fatal(err)
	}
	if d.Instance != "" || d.Server != "s-1" {
		t.Errorf("got %+v", d)
	}
	if doc, err := json.Marshal(d); err != nil || strings.Contains(string(doc), "instance") {
		t.Errorf("written, it is %s, %v", doc, err)
	}
}

// claiming is good with a claim code in place of the tokens.
var claiming = strings.Replace(good, `"game": "GAMETOKEN", "social": "SOCIALTOKEN"`, `"claim": "CLAIMTOKEN"`, 1)

// A document with a claim code has no tokens, and none are made up when it is written.
func TestParseWithAClaimCode(t *testing.T) {
	d, err := bootstrap.Parse([]byte(claiming))
	if err != nil {
		t.Fatal(err)
	}
	if d.Claim.Reveal() != "CLAIMTOKEN" || d.Game != "" || d.Social != "" || d.Instance != "i-1" {
		t.Errorf("got %+v", d)
	}
	doc, err := json.Marshal(d)
	if err != nil || strings.Contains(string(doc), "game\":\"") || strings.Contains(string(doc), "social") || !strings.Contains(string(doc), `"claim":"CLAIMTOKEN"`) {
		t.Errorf("written, it is %s, %v", doc, err)
	}
}

// Whatever way a document gets into a log or a message, its tokens do not.
func TestTokensAreNotPrinted(t *testing.T) {
	var out bytes.Buffer
	for _, doc := range []string{good, claiming} {
		d, err := bootstrap.Parse([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(h).Info("started", "bootstrap", d, "value", *d, "game", d.Game, "claim", d.Claim)
		}
		fmt.Fprintf(&out, "%v %+v %#v %s %q %v %s", d, d, d, d.Game, d.Game, *d, d.Claim)
	}
	if strings.Contains(out.String(), "TOKEN") {
		t.Errorf("a token was printed:\n%s", out.String())
	}
	if !strings.Contains(out.String(), "i-1") {
		t.Errorf("the instance was not printed:\n%s", out.String())
	}
}

func TestDocumentRoundTrip(t *testing.T) {
	d, err := bootstrap.Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	again, err := bootstrap.Parse(doc)
	if err != nil || again.Game != d.Game || again.Social != d.Social || again.Traceparent != d.Traceparent {
		t.Errorf("after writing and reading: %+v, %v", again, err)
	}
}

func TestWithEndpoints(t *testing.T) {
	doc, err := bootstrap.WithEndpoints([]byte(good), []bootstrap.Endpoint{{Name: "voice", Host: "h", Port: 9, Protocol: "udp"}})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), "the future") {
		t.Error("a member that is not known was lost")
	}
	d, err := bootstrap.Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := d.Endpoint("voice"); !ok || len(d.Endpoints) != 1 || d.Game.Reveal() != "GAMETOKEN" {
		t.Errorf("got %+v", d)
	}
	for name, f := range map[string]func() error{
		"bad endpoint": func() error {
			_, err := bootstrap.WithEndpoints([]byte(good), []bootstrap.Endpoint{{Name: "x"}})
			return err
		},
		"null":   func() error { _, err := bootstrap.WithEndpoints([]byte("null"), nil); return err },
		"number": func() error { _, err := bootstrap.WithEndpoints([]byte("1"), nil); return err },
	} {
		if f() == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// FuzzParse: whatever comes in, there is no panic; what is taken is complete and survives writing and reading.
func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(claiming))
	f.Add([]byte(strings.Replace(good, `"game":`, `"claim": "CLAIMTOKEN", "game":`, 1)))
	f.Add([]byte(`{"v":1,"claim":null}`))
	f.Add([]byte(`{"v":1}`))
	f.Add([]byte(`null`))
	f.Add([]byte(`{"v":1,"endpoints":[null]}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		d, err := bootstrap.Parse(doc)
		if err != nil {
			return
		}
		if d.Namespace == "" || d.Server == "" || d.Gateway == "" || (d.Game == "") == (d.Claim == "") || (d.Social == "") == (d.Claim == "") {
			t.Errorf("took a document with something missing, or too much")
		}
		again, err := bootstrap.WithEndpoints(doc, d.Endpoints)
		if err != nil {
			t.Fatal(err)
		}
		if len(again) <= bootstrap.MaxSize {
			if _, err := bootstrap.Parse(again); err != nil {
				t.Errorf("refused after WithEndpoints: %v", err)
			}
		}
	})
}

func TestADocumentForAPool(t *testing.T) {
	const good = `{"v":1,"namespace":"default","gateway":"https://edge.example.com","pool":{"name":"metal","server":"rack-7","key":"KEY","builds":["b"],"capacity":2,` +
		`"endpoints":[{"name":"game","host":"h","port":7,"protocol":"udp"}]}}`
	d, err := bootstrap.Parse([]byte(good))
	if err != nil || d.Pool.Name != "metal" || d.Pool.Key.Reveal() != "KEY" || d.Pool.Capacity != 2 || len(d.Pool.Endpoints) != 1 {
		t.Fatalf("%+v, %v", d, err)
	}
	for old, c := range map[string]struct{ now, says string }{
		`"v":1,`:           {`"v":1,"game":"G",`, "game and pool are both there"},
		`"namespace"`:      {`"server":"S","namespace"`, "server and pool are both there"},
		`"name":"metal",`:  {``, "pool.name is missing"},
		`"key":"KEY",`:     {``, "pool.key is missing"},
		`"builds":["b"],`:  {``, "pool.builds is missing"},
		`"protocol":"udp"`: {`"protocol":"ip"`, "pool.endpoints[0].protocol"},
	} {
		if _, err := bootstrap.Parse([]byte(strings.Replace(good, old, c.now, 1))); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.says, err)
		}
	}
}
