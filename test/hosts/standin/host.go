// Package standin is what the stand-ins of hosting providers have in common: an HTTP API that can be made to misbehave, and game servers that it says it
// runs. What each host's API looks like is in a package of its own beside this one. Stand-ins share no code with the providers that call them.
package standin

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-dev/berth/sdk/go/provider/providertest"
)

// Dialect is how a host words its refusals. What is nil, it cannot be made to do.
type Dialect struct {
	// Creates reports whether a request asks for a server. Needed for Full and OverQuota.
	Creates func(*http.Request) bool
	// Throttled refuses because there were too many calls, and says when to come back.
	Throttled func(w http.ResponseWriter, r *http.Request, after time.Duration)
	// Full refuses because there is no room, OverQuota because of a quota or a bill.
	Full, OverQuota http.HandlerFunc
	// Refused refuses the caller's credentials.
	Refused http.HandlerFunc
	// Away says that the host is not there for now. Nil: 503 with a page of HTML.
	Away http.HandlerFunc
}

// Host is an API that can be made to misbehave, and a providertest.Host. It is safe for concurrent use.
type Host struct {
	// Servers are those that the host ever started.
	*Servers

	dialect  Dialect
	api      http.Handler
	mu       sync.Mutex
	do       func(http.ResponseWriter, *http.Request) // nil: as it should be
	healed   chan struct{}                            // closed by the next change of do
	nonsense int
	late     sync.WaitGroup
	busy     atomic.Int64 // nanoseconds that the API itself took
}

var _ providertest.Host = (*Host)(nil)

// New returns a Host that serves an API.
func New(d Dialect, servers *Servers, api http.Handler) *Host {
	return &Host{Servers: servers, dialect: d, api: api, healed: make(chan struct{})}
}

// ServeHTTP implements http.Handler.
func (h *Host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	do := h.do
	h.mu.Unlock()
	if do == nil {
		start := time.Now()
		h.api.ServeHTTP(w, r)
		h.busy.Add(int64(time.Since(start)))
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	do(w, r)
}

func (h *Host) set(do func(http.ResponseWriter, *http.Request)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.do = do
	close(h.healed)
	h.healed = make(chan struct{})
	return nil
}

func (h *Host) refuse(with http.HandlerFunc, all bool) error {
	if with == nil || !all && h.dialect.Creates == nil {
		return providertest.ErrUnsupported
	}
	return h.set(func(w http.ResponseWriter, r *http.Request) {
		if all || h.dialect.Creates(r) {
			with(w, r)
			return
		}
		h.api.ServeHTTP(w, r)
	})
}

// Throttle implements providertest.Host.
func (h *Host) Throttle(_ context.Context, after time.Duration) error {
	if h.dialect.Throttled == nil {
		return providertest.ErrUnsupported
	}
	return h.set(func(w http.ResponseWriter, r *http.Request) { h.dialect.Throttled(w, r, after) })
}

// Exhaust implements providertest.Host.
func (h *Host) Exhaust(context.Context) error { return h.refuse(h.dialect.Full, false) }

// Quota implements providertest.Host.
func (h *Host) Quota(context.Context) error { return h.refuse(h.dialect.OverQuota, false) }

// Refuse implements providertest.Host.
func (h *Host) Refuse(context.Context) error { return h.refuse(h.dialect.Refused, true) }

// Down implements providertest.Host.
func (h *Host) Down(context.Context) error {
	away := h.dialect.Away
	if away == nil {
		away = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, "<html><body><h1>503 Service Temporarily Unavailable</h1></body></html>")
		}
	}
	return h.refuse(away, true)
}

// Answer answers each request with that, and does nothing else, until Heal.
func (h *Host) Answer(with http.HandlerFunc) { _ = h.set(with) }

// Heal implements providertest.Host.
func (h *Host) Heal(context.Context) error { return h.set(nil) }

// Hang implements providertest.Host.
func (h *Host) Hang(context.Context) error {
	return h.set(func(_ http.ResponseWriter, r *http.Request) {
		h.wait(r.Context(), 0)
		panic(http.ErrAbortHandler)
	})
}

// wait waits for the time, or without one for ever, until the caller is gone or the host is healed.
func (h *Host) wait(ctx context.Context, d time.Duration) {
	h.mu.Lock()
	healed := h.healed
	h.mu.Unlock()
	var over <-chan time.Time
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-over:
	case <-ctx.Done():
	case <-healed:
	}
}

// Slow implements providertest.Host.
func (h *Host) Slow(_ context.Context, by time.Duration) error {
	return h.set(func(w http.ResponseWriter, r *http.Request) {
		h.wait(r.Context(), by)
		h.api.ServeHTTP(w, r)
	})
}

// perform does what a request asks for, and returns the answer.
func (h *Host) perform(r *http.Request, body []byte) *httptest.ResponseRecorder {
	r = r.Clone(context.WithoutCancel(r.Context()))
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer := httptest.NewRecorder()
	h.api.ServeHTTP(answer, r)
	return answer
}

func bodyOf(r *http.Request) []byte {
	body, _ := io.ReadAll(r.Body) // in memory
	return body
}

func send(w http.ResponseWriter, answer *httptest.ResponseRecorder) {
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

// LoseReply implements providertest.Host.
func (h *Host) LoseReply(context.Context) error {
	return h.set(func(_ http.ResponseWriter, r *http.Request) {
		h.perform(r, bodyOf(r))
		panic(http.ErrAbortHandler)
	})
}

// Duplicate implements providertest.Host. The answer is the second one's.
func (h *Host) Duplicate(context.Context) error {
	return h.set(func(w http.ResponseWriter, r *http.Request) {
		body := bodyOf(r)
		h.perform(r, body)
		send(w, h.perform(r, body))
	})
}

// Late implements providertest.Host.
func (h *Host) Late(_ context.Context, after time.Duration) error {
	return h.set(func(w http.ResponseWriter, r *http.Request) {
		body, done := bodyOf(r), make(chan *httptest.ResponseRecorder, 1) // there is one answer
		h.late.Go(func() {
			time.Sleep(after)
			done <- h.perform(r, body)
		})
		select {
		case answer := <-done:
			send(w, answer)
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	})
}

// Garble implements providertest.Host. In turn, something on the way answers with a page, as if all were well and as if there were nothing, and the host is not
// asked; it does what it is asked, and half of the answer or nothing of it arrives; or it fails, and says that all is well.
func (h *Host) Garble(context.Context) error {
	return h.set(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		h.nonsense++
		kind := h.nonsense % 5
		h.mu.Unlock()
		switch kind {
		case 0:
			page(w, http.StatusOK)
		case 1:
			answer := h.perform(r, bodyOf(r))
			whole := answer.Body.Bytes()
			w.Header().Set("Content-Type", answer.Header().Get("Content-Type"))
			_, _ = w.Write(whole[:len(whole)/2])
		case 2:
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"error": "something went wrong", "status": "ok"}`)
		case 3:
			page(w, http.StatusNotFound)
		default:
			h.perform(r, bodyOf(r))
		}
	})
}

// page is what an ingress or a proxy answers.
func page(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, "<!doctype html><html><body>Welcome to the proxy</body></html>")
}

// Close waits until nothing of what is late is left to do, and ends all servers. Nobody may call the host any more.
func (h *Host) Close() {
	h.late.Wait()
	h.Servers.Close()
}
