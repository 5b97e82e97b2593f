// Package chaoshost lets the conformance suite control a chaos provider, in the same process or in another one: what the suite wants of a host is a script.
package chaoshost

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/berth-dev/berth/sdk/go/provider/chaos"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
)

// timeout bounds a call of a remote provider's controls.
const timeout = 10 * time.Second

// Host implements providertest.Host. Duplicate and Garble are unsupported: a chaos provider is the host and the plugin in one, and these two are about a plugin that copes
// with its host. Its own duplicate and garble are defects, for the tests of who calls it.
type Host struct {
	providertest.Unsupported
	// Base is the script when nothing goes wrong.
	Base chaos.Script
	// Set goes on with a script.
	Set func(chaos.Script) error
	// Count returns how many servers were started for an attempt. Nil: nobody knows.
	Count func(attempt string) (int, error)
	// Document returns what a server got. Nil: nobody knows.
	Document func(ctx context.Context, attempt string) ([]byte, error)
}

var _ providertest.Host = (*Host)(nil)

// New returns the Host of a provider in the same process.
func New(p *chaos.Provider, base chaos.Script) *Host {
	return &Host{Base: base, Set: p.SetScript, Count: func(attempt string) (int, error) { return p.Started(attempt), nil }}
}

// Remote returns the Host of a provider in another process, whose [chaos.Provider.Handler] is served at the URL.
func Remote(url string, base chaos.Script) *Host {
	client := &http.Client{Timeout: timeout}
	ask := func(method, path string, body []byte) (reply []byte, err error) {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, method, url+path, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		defer func() { _ = resp.Body.Close() }()
		if reply, err = io.ReadAll(resp.Body); err == nil && resp.StatusCode >= http.StatusBadRequest {
			err = fmt.Errorf("%s: %s", resp.Status, reply)
		}
		return reply, err
	}
	return &Host{
		Base: base,
		Set: func(script chaos.Script) error {
			raw, err := yaml.Marshal(script)
			if err == nil {
				_, err = ask(http.MethodPut, "/script", raw)
			}
			return err
		},
		Count: func(attempt string) (int, error) {
			raw, err := ask(http.MethodGet, "/attempts/"+attempt, nil)
			if err != nil {
				return 0, err
			}
			var counts struct{ Started int }
			err = json.Unmarshal(raw, &counts)
			return counts.Started, err
		},
	}
}

// all has a step happen to every call but Describe.
func (h *Host) all(step chaos.Step) error {
	s, steps := h.Base, []chaos.Step{step}
	s.Allocate, s.Get, s.List, s.Release = steps, steps, steps, steps
	return h.Set(s)
}

func (h *Host) allocate(step chaos.Step) error {
	s := h.Base
	s.Allocate = []chaos.Step{step}
	return h.Set(s)
}

// Throttle implements providertest.Host.
func (h *Host) Throttle(_ context.Context, after time.Duration) error {
	return h.all(chaos.Step{Fail: "RATE_LIMITED", RetryAfter: after})
}

// Exhaust implements providertest.Host.
func (h *Host) Exhaust(context.Context) error { return h.allocate(chaos.Step{Fail: "NO_CAPACITY"}) }

// Quota implements providertest.Host.
func (h *Host) Quota(context.Context) error { return h.allocate(chaos.Step{Fail: "QUOTA"}) }

// Refuse implements providertest.Host.
func (h *Host) Refuse(context.Context) error { return h.all(chaos.Step{Fail: "UNAUTHENTICATED"}) }

// Down implements providertest.Host.
func (h *Host) Down(context.Context) error { return h.all(chaos.Step{Fail: "UNAVAILABLE"}) }

// LoseReply implements providertest.Host.
func (h *Host) LoseReply(context.Context) error { return h.all(chaos.Step{LoseReply: true}) }

// Late implements providertest.Host.
func (h *Host) Late(_ context.Context, after time.Duration) error {
	return h.allocate(chaos.Step{Late: after})
}

// Slow implements providertest.Host.
func (h *Host) Slow(_ context.Context, by time.Duration) error { return h.all(chaos.Step{Delay: by}) }

// Hang implements providertest.Host.
func (h *Host) Hang(context.Context) error { return h.all(chaos.Step{Hang: true}) }

// Heal implements providertest.Host.
func (h *Host) Heal(context.Context) error { return h.Set(h.Base) }

// Started implements providertest.Host.
func (h *Host) Started(_ context.Context, attempt string) (int, error) {
	if h.Count == nil {
		return 0, providertest.ErrUnsupported
	}
	return h.Count(attempt)
}

// Bootstrap implements providertest.Host.
func (h *Host) Bootstrap(ctx context.Context, attempt string) ([]byte, error) {
	if h.Document == nil {
		return nil, providertest.ErrUnsupported
	}
	return h.Document(ctx, attempt)
}
