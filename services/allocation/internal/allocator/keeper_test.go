package allocator

import (
	"context"
	"errors"
	"slices"
	"testing"
)

// still is a line in which nothing moves by itself.
type still struct {
	Lines
	front []string
	err   error
}

func (s *still) Front(_ context.Context, l Line, n int) (front []Waiter, err error) {
	for _, id := range s.front[:min(n, len(s.front))] {
		front = append(front, Waiter{ID: id, Line: l})
	}
	return front, s.err
}

func (s *still) Crowds(context.Context, []string) ([]Crowd, error) {
	return []Crowd{{Build: "demo", Waiting: len(s.front), Lines: []Line{{Build: "demo"}}}}, s.err
}

// woken is a keeper of a still line, and whom it has woken with what since it was asked last.
func woken(s *still) (k *keeper, nudged func() map[string][]string) {
	got := make(map[string][]string)
	k = newKeeper(s, func() []string { return nil }, func(id string, n nudge) bool {
		got[id] = n.from
		return true
	}, func(context.Context, []Waiter) (int, error) { return 0, nil })
	return k, func() map[string][]string {
		last := got
		got = make(map[string][]string)
		return last
	}
}

// Who was woken in vain is woken again once a second, however often the line is looked at for other reasons, and hears all that there was to hear.
func TestWhoWasWokenInVainIsWokenAgainOnceASecond(t *testing.T) {
	l, s := Line{Build: "demo"}, &still{front: []string{"a", "b"}}
	k, nudged := woken(s)
	k.search(t.Context())
	k.tookBack("one")
	k.lookAt(t.Context(), l, false)
	if got := nudged(); len(got) != 1 || !slices.Equal(got["a"], []string{"one"}) {
		t.Fatalf("woken: %v", got)
	}
	k.unheard("a", nudge{l, []string{"one"}})
	k.unheard("a", nudge{l, []string{"two"}})
	k.unheard("b", nudge{l, []string{"one"}}) // it is not in front
	for range 100 {
		k.lookAt(t.Context(), l, false)
	}
	if got := nudged(); len(got) != 0 {
		t.Errorf("woken between seconds: %v", got)
	}
	k.lookAt(t.Context(), l, true)
	if got := nudged(); len(got) != 1 || !slices.Equal(got["a"], []string{"one", "two"}) {
		t.Errorf("woken a second later: %v", got)
	}
	k.lookAt(t.Context(), l, true)
	if got := nudged(); len(got) != 0 {
		t.Errorf("woken although it has heard: %v", got)
	}
}

// That a provider took a server back is kept for whoever comes to the front, until one has tried in vain since, and over a store that is away.
func TestWhatWasTakenBackIsKeptForTheNext(t *testing.T) {
	l, s := Line{Build: "demo"}, &still{front: []string{"a", "b", "c"}}
	k, nudged := woken(s)
	k.tookBack("one") // nobody is known to wait
	s.err = errors.New("away")
	k.search(t.Context())
	s.err = nil
	k.search(t.Context())
	k.lookAt(t.Context(), l, false)
	if got := nudged(); !slices.Equal(got["a"], []string{"one"}) {
		t.Errorf("the first of a line that was found: %v", got)
	}
	s.err = errors.New("away")
	k.tookBack("two")
	k.lookAt(t.Context(), l, false)
	nudged()
	s.err = nil
	k.lookAt(t.Context(), l, false)
	if got := nudged(); !slices.Equal(got["a"], []string{"one", "two"}) {
		t.Errorf("once the store is back: %v", got)
	}
	s.front = s.front[1:]
	k.left(l, false)
	k.lookAt(t.Context(), l, false)
	if got := nudged(); !slices.Equal(got["b"], []string{"one", "two"}) {
		t.Errorf("the next one: %v", got)
	}
	k.entered(l, true, k.given()) // in vain
	s.front = s.front[1:]
	k.lookAt(t.Context(), l, false)
	if got, woken := nudged()["c"]; !woken || len(got) != 0 {
		t.Errorf("after one has tried in vain: %v, %v", got, woken)
	}
	since := k.given()
	k.tookBack("three")
	k.entered(l, true, since) // it may have come too early for that one
	k.lookAt(t.Context(), l, false)
	if got := nudged(); !slices.Equal(got["c"], []string{"three"}) {
		t.Errorf("after one has tried in vain meanwhile: %v", got)
	}
}

// As many as have left room try at once, or a line whose servers go as fast as they come would move one by one.
func TestAsManyTryAsHaveLeftRoom(t *testing.T) {
	k := newKeeper(nil, nil, nil, nil)
	l := Line{Build: "b"}
	k.entered(l, true, k.given())
	if n := k.window(l); n != 1 {
		t.Fatalf("%d try where there is no room", n)
	}
	k.takesBack(3)
	if n := k.window(l); n != 3 {
		t.Errorf("%d try for three places", n)
	}
	k.left(l, true)
	if n := k.window(l); n != 2 {
		t.Errorf("%d try for the two that are left", n)
	}
	k.entered(l, true, k.given())
	if n := k.window(l); n != 1 {
		t.Errorf("%d try though others have got those", n)
	}
	k.takesBack(10 * maxWindow)
	if n := k.window(l); n != maxWindow {
		t.Errorf("%d try at once", n)
	}
}
