package attempts_test

import (
	"context"
	"strconv"
	"testing"

	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/attempts"
)

func TestOneAtATime(t *testing.T) {
	var book attempts.Book
	unlock, err := book.Begin(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	other, err := book.Begin(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	other()
	cut, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := book.Begin(cut, "a"); provider.ReasonOf(err) != provider.Unavailable {
		t.Errorf("while another call is under way: %v", err)
	}
	waited := make(chan error)
	go func() {
		unlock, err := book.End(t.Context(), "a")
		if err == nil {
			unlock()
		}
		waited <- err
	}()
	unlock()
	if err := <-waited; err != nil {
		t.Error(err)
	}
	if _, err := book.Begin(t.Context(), "a"); provider.ReasonOf(err) != provider.Invalid {
		t.Errorf("after the release: %v", err)
	}
}

// A release counts from when it was asked for: an Allocate that waits behind another one starts nothing any more.
func TestAReleaseCountsAtOnce(t *testing.T) {
	var book attempts.Book
	unlock, err := book.Begin(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	cut, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := book.End(cut, "a"); err == nil {
		t.Error("the release did not wait for its turn")
	}
	unlock()
	if _, err := book.Begin(t.Context(), "a"); provider.ReasonOf(err) != provider.Invalid {
		t.Errorf("got %v", err)
	}
}

func TestTheOldestIsForgotten(t *testing.T) {
	var book attempts.Book
	for n := range 10_001 {
		book.Release(strconv.Itoa(n))
		book.Release(strconv.Itoa(n))
	}
	if book.Released("0") || !book.Released("1") || !book.Released("10000") {
		t.Error("the book has not the newest 10,000")
	}
}

func TestMarks(t *testing.T) {
	attempt := ids.Attempt("5a0c1a52-2a0e-4a58-9a9e-6c7d3f1b2e4d", 3)
	name := attempts.Marked("eu-live", attempt)
	if got, ok := attempts.Unmarked("eu-live", name); !ok || got != attempt {
		t.Errorf("%q, %v", got, ok)
	}
	for _, deployment := range []string{"eu", "live", "eu-live-2", ""} {
		if got, ok := attempts.Unmarked(deployment, name); ok {
			t.Errorf("%q has the mark of %q: %q", name, deployment, got)
		}
	}
}
