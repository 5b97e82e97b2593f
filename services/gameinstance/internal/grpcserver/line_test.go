package grpcserver

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

// Calls of one server begin and are answered in order, and are under way together in between.
func TestALineKeepsOrderAndLetsCallsWaitTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lines
		var mu sync.Mutex
		var log []string
		say := func(what string) {
			mu.Lock()
			defer mu.Unlock()
			log = append(log, what)
		}
		slow := make(chan struct{})
		call := func(key, name string, work func(p *spot)) {
			p := l.join(key)
			go func() {
				defer p.leave()
				p.begin()
				say(name + " begins")
				work(p)
				p.end()
				say(name + " is answered")
			}()
			synctest.Wait()
		}
		call("s", "first", func(p *spot) { p.next(); p.next(); <-slow })
		call("s", "second", func(*spot) {}) // refused at once, and done before the first
		call("s", "third", func(p *spot) { p.next() })
		call("other", "stranger", func(*spot) {})
		close(slow)
		synctest.Wait()
		want := []string{"first begins", "second begins", "third begins", "stranger begins", "stranger is answered", "first is answered", "second is answered", "third is answered"}
		if !slices.Equal(log, want) {
			t.Errorf("%q\nwant %q", log, want)
		}
		if len(l.last) != 0 {
			t.Errorf("%d lines are kept", len(l.last))
		}
	})
}
