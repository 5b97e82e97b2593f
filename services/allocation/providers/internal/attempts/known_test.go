package attempts_test

import (
	"strconv"
	"testing"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/services/allocation/providers/internal/attempts"
)

func TestKnown(t *testing.T) {
	var known attempts.Known
	if known.Learn("a", "live", "attempt-1") || !known.Learn("a", "live", "attempt-1") {
		t.Error("it is not known that it was known")
	}
	if got, ok := known.Attempt("a", "live"); !ok || got != "attempt-1" {
		t.Errorf("%q, %v", got, ok)
	}
	for name, deployment := range map[string]string{"a": "test", "b": "live"} {
		if got, ok := known.Attempt(name, deployment); ok {
			t.Errorf("%s of %s is %q", name, deployment, got)
		}
	}
}

func TestTheOldestServersAreForgotten(t *testing.T) {
	var known attempts.Known
	for n := range 50_002 {
		known.Learn(strconv.Itoa(n), "live", "attempt")
	}
	for name, want := range map[string]bool{"0": false, "1": false, "2": true, "50001": true} {
		if _, ok := known.Attempt(name, "live"); ok != want {
			t.Errorf("%s is known: %v", name, ok)
		}
	}
}

// A server is found again after an upgrade of Berth: what a name is made of stays as it is.
func TestUUID(t *testing.T) {
	const attempt = "5a0c1a52-2a0e-4a58-9a9e-6c7d3f1b2e4d-3"
	got := attempts.UUID("eu-live", attempt)
	if got != "aedcf702-81c1-5be3-8206-9286247fc0ea" || uuid.MustParse(got).Version() != 5 {
		t.Errorf("got %s", got)
	}
	if attempts.UUID("us-live", attempt) == got {
		t.Error("two deployments have one name")
	}
}
