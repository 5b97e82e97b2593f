package chaos

import (
	"encoding/json"
	"io"
	"net/http"
)

// Stats are counts since the provider was made.
type Stats struct {
	// Calls are those that came in, whatever happened to them.
	Calls Calls `json:"calls"`
	// Started is how many servers were ever started.
	Started int `json:"started"`
	// Doubled is for how many attempts more than one server was started. Only a script's duplicate does that.
	Doubled int `json:"doubled"`
	// MostPerAttempt is how many servers the attempt with the most had.
	MostPerAttempt int `json:"most_per_attempt"`
	// Alive is how many servers have not ended.
	Alive int `json:"alive"`
	// Released is how many attempts were released, with a server or without.
	Released int `json:"released"`
}

// Calls are counts of calls.
type Calls struct {
	Describe int `json:"describe"`
	Allocate int `json:"allocate"`
	Get      int `json:"get"`
	List     int `json:"list"`
	Release  int `json:"release"`
}

func (c *Calls) add(rpc string) {
	switch rpc {
	case describe:
		c.Describe++
	case allocate:
		c.Allocate++
	case get:
		c.Get++
	case list:
		c.List++
	case release:
		c.Release++
	}
}

// started counts a server that is the n-th of its attempt.
func (s *Stats) started(n int) {
	s.Started++
	s.MostPerAttempt = max(s.MostPerAttempt, n)
	if n == 2 {
		s.Doubled++
	}
}

// Stats returns the counts.
func (p *Provider) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Alive = len(p.servers)
	return s
}

// Started returns how many servers were ever started for an attempt.
func (p *Provider) Started(attempt string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a := p.attempts[attempt]; a != nil {
		return len(a.servers)
	}
	return 0
}

// maxScript bounds a script that comes over HTTP.
const maxScript = 1 << 20

// Handler serves GET /stats (JSON), GET /attempts/{attempt} (JSON, how many servers were started for it) and PUT /script (YAML; goes on with that script). Whoever can
// call it decides what goes wrong: serve it to your own machine only.
func (p *Provider) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) { reply(w, p.Stats()) })
	mux.HandleFunc("GET /attempts/{attempt}", func(w http.ResponseWriter, r *http.Request) {
		reply(w, map[string]int{"started": p.Started(r.PathValue("attempt"))})
	})
	mux.HandleFunc("PUT /script", func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxScript))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		script, err := Parse(raw)
		if err == nil {
			err = p.SetScript(script)
		}
		if err != nil {
			http.Error(w, "script: "+err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

func reply(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // the caller is gone then
}
