// Package main_test holds the link to docs/link-protocol.md: conversations with a real gateway, and matches of clients that share no code with this tree.
package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/berth-dev/berth/services/berth/dev"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

// stack is all of Berth in this process.
type stack struct {
	*dev.Stack
	dir string
}

// start runs what `berth dev` runs.
func start(t *testing.T, o dev.Options) *stack {
	t.Helper()
	o.Dir, o.AnyPort, o.LogLevel, o.Out = t.TempDir(), true, "error", io.Discard
	ctx, cancel := context.WithCancel(context.Background())
	d, err := dev.New(ctx, o)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- d.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("stop: %v", err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	eventually(t, "Berth is ready", func() error { return d.Ready(ctx) })
	return &stack{Stack: d, dir: o.Dir}
}

// object is a JSON object.
type object = map[string]any

// call calls the API over REST, which must succeed.
func (s *stack) call(t *testing.T, method, path, body string) object {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.APIURL+"/v1/namespaces/default/instances"+path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.Key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	var out object
	if err := errors.Join(err, json.Unmarshal(raw, &out)); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %d %s, %v", method, path, resp.StatusCode, raw, err)
	}
	return out
}

// create creates an instance and returns its id.
func (s *stack) create(t *testing.T, build string) string {
	t.Helper()
	out := s.call(t, "POST", "", fmt.Sprintf(`{"placement":{"build":%q},"players":[{"id":"ann"}]}`, build))
	inst, _ := out["instance"].(object)
	id, _ := inst["id"].(string)
	return id
}

// instance returns an instance as it is now.
func (s *stack) instance(t *testing.T, id string) object {
	t.Helper()
	inst, _ := s.call(t, "GET", "/"+id, "")["instance"].(object)
	return inst
}

// document is what tests need of a bootstrap document.
type document struct{ Instance, Game, Social string }

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s: %v", what, err)
		}
		<-poll.C
	}
}

// readDocument waits for the bootstrap document in a file.
func readDocument(t *testing.T, path string) (d document) {
	t.Helper()
	eventually(t, "the bootstrap is written", func() error {
		raw, err := os.ReadFile(path)
		return errors.Join(err, json.Unmarshal(raw, &d))
	})
	return d
}
