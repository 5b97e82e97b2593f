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
	"github.com/berth-dev/berth/test/stack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

// berth is all of Berth in this process.
type berth struct {
	*dev.Stack
	dir string
}

// start runs what `berth dev` runs.
func start(t *testing.T, o dev.Options) *berth {
	t.Helper()
	o.Dir = t.TempDir()
	return &berth{Stack: stack.AllInOne(t, o), dir: o.Dir}
}

// object is a JSON object.
type object = map[string]any

// call calls the API over REST, which must succeed.
func (s *berth) call(t *testing.T, method, path, body string) object {
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
func (s *berth) create(t *testing.T, build string) string {
	t.Helper()
	out := s.call(t, "POST", "", fmt.Sprintf(`{"placement":{"build":%q},"players":[{"id":"ann"}]}`, build))
	inst, _ := out["instance"].(object)
	id, _ := inst["id"].(string)
	return id
}

// instance returns an instance as it is now.
func (s *berth) instance(t *testing.T, id string) object {
	t.Helper()
	inst, _ := s.call(t, "GET", "/"+id, "")["instance"].(object)
	return inst
}

// document is what tests need of a bootstrap document.
type document struct{ Instance, Game, Social string }

// readDocument waits for the bootstrap document in a file.
func readDocument(t *testing.T, path string) (d document) {
	t.Helper()
	stack.Eventually(t, "the bootstrap is written", func() error {
		raw, err := os.ReadFile(path)
		return errors.Join(err, json.Unmarshal(raw, &d))
	})
	return d
}
