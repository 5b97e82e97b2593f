// Package bootstrap is the document that a game server is started with: who it is, which instance it is for, if it is for a certain one,
// where its gateway is, and the two partner tokens or a claim code that is exchanged for them. Game servers get it through package gameserver; providers pass it on.
package bootstrap

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
)

// Version is the version of the document that this package reads and writes.
const Version = 1

// MaxSize is the largest document in bytes. It fits into one environment variable everywhere.
const MaxSize = 96 << 10

// Document is the bootstrap document. Its JSON form holds both tokens, or the claim code: it is a secret, to be handed to the game server by
// environment, file or pipe and never by command line. A Document may be logged; its secrets are left out then.
type Document struct {
	// Version is the document's version.
	Version int `json:"v"`
	// Namespace is the namespace of server and instance.
	Namespace string `json:"namespace"`
	// Instance is the id of the instance that the server is for. It is empty for a registered server, which is told its instances when
	// it is connected.
	Instance string `json:"instance,omitempty"`
	// Server is the server's own id.
	Server string `json:"server,omitempty"`
	// Gateway is the base URL of the gateway's edge, such as "https://edge.example.com".
	Gateway string `json:"gateway"`
	// Game is the game token; empty if there is a claim code.
	Game Secret `json:"game,omitempty"`
	// Social is the social token; empty if there is a claim code.
	Social Secret `json:"social,omitempty"`
	// Claim is the claim code, which stands in place of both tokens where a host would log or show them: package gameserver exchanges it for
	// them, once.
	Claim Secret `json:"claim,omitempty"`
	// Pool is the warm pool that the server joins, in the place of tokens, server and instance: package gameserver asks for those.
	Pool *Pool `json:"pool,omitempty"`
	// CA has certificates (PEM) of the authorities that the gateway's is signed by, where those of the system do not know it: then only these count.
	// It is not secret.
	CA string `json:"ca,omitempty"`
	// Endpoints are the addresses on which players reach the server, where its provider knew them when it started it.
	Endpoints []Endpoint `json:"endpoints,omitempty"`
	// Traceparent joins the server to the trace of the request that caused it (W3C Trace Context); may be empty.
	Traceparent string `json:"traceparent,omitempty"`
}

// Pool is the warm pool that a server joins, which started by itself, and what there is to say about the server.
type Pool struct {
	// Name is the pool's name.
	Name string `json:"name"`
	// Server names the server within the pool, for as long as it is the same one; at most 128 characters.
	Server string `json:"server"`
	// Key is the pool's credential: an API key of the role POOL.
	Key Secret `json:"key"`
	// Builds are the builds that the server can run; at least one.
	Builds []string `json:"builds"`
	// Region is where the server is; empty: anywhere.
	Region string `json:"region,omitempty"`
	// Capacity is how many instances it can have at once, up to 1000; 0: one.
	Capacity int32 `json:"capacity,omitempty"`
	// Labels are what placements may ask for.
	Labels map[string]string `json:"labels,omitempty"`
	// Endpoints are the public addresses that its instances get.
	Endpoints []Endpoint `json:"endpoints,omitempty"`
}

// Endpoint is a public address of the server.
type Endpoint struct {
	// Name is the name that the build gave to the port.
	Name string `json:"name"`
	// Host is a DNS name or an IP address.
	Host string `json:"host"`
	// Port is the port; never 0.
	Port uint16 `json:"port"`
	// Protocol is "tcp" or "udp".
	Protocol string `json:"protocol"`
}

// Endpoint returns the endpoint with that name.
func (d *Document) Endpoint(name string) (Endpoint, bool) {
	for _, e := range d.Endpoints {
		if e.Name == name {
			return e, true
		}
	}
	return Endpoint{}, false
}

// Authorities returns the authorities that the gateway's certificate has to be of; nil for those of the system.
func (d *Document) Authorities() (*x509.CertPool, error) {
	if d.CA == "" {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(d.CA)) {
		return nil, errors.New("ca has no certificate in PEM")
	}
	return pool, nil
}

// LogValue implements slog.LogValuer: everything but the secrets, in JSON logs too.
func (d Document) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("namespace", d.Namespace),
		slog.String("instance", d.Instance),
		slog.String("server", d.Server),
		slog.String("gateway", d.Gateway),
		slog.Int("endpoints", len(d.Endpoints)),
	)
}

// Secret is text that must not be seen: printed or logged, it shows as "[secret]". As JSON it is written in full.
type Secret string

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return string(s) }

// String implements fmt.Stringer.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[secret]"
}

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return fmt.Sprintf("%q", s.String()) }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Parse reads a document and checks that everything is there that every server needs. Members that it does not know are left out.
func Parse(doc []byte) (*Document, error) {
	if len(doc) > MaxSize {
		return nil, fmt.Errorf("it has more than %d bytes", MaxSize)
	}
	d := new(Document)
	if err := json.Unmarshal(doc, d); err != nil {
		return nil, jsonError(err)
	}
	if d.Version != Version {
		return nil, fmt.Errorf("v is %d: this version of the SDK reads %d", d.Version, Version)
	}
	check := d.checkNeeded
	if d.Pool != nil {
		check = d.checkPool
	}
	if err := check(); err != nil {
		return nil, err
	}
	u, err := url.Parse(d.Gateway)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("gateway is not a base URL such as https://edge.example.com")
	}
	if d.CA != "" && u.Scheme != "https" {
		return nil, errors.New("ca is there, and gateway does not begin with https")
	}
	if _, err := d.Authorities(); err != nil {
		return nil, err
	}
	return d, checkEndpoints(d.Endpoints)
}

// checkNeeded returns an error that names a member which is missing, or one too many.
func (d *Document) checkNeeded() error {
	type member struct{ name, value string }
	needed := []member{{"namespace", d.Namespace}, {"server", d.Server}, {"gateway", d.Gateway}}
	tokens := []member{{"game", d.Game.Reveal()}, {"social", d.Social.Reveal()}}
	switch {
	case d.Claim == "" && d.Game == "" && d.Social == "":
		needed = append(needed, member{"game (or claim)", ""})
	case d.Claim == "":
		needed = append(needed, tokens...)
	default:
		for _, t := range tokens {
			if t.value != "" {
				return fmt.Errorf("%s and claim are both there: a document has the two tokens, or a claim code in their place", t.name)
			}
		}
	}
	for _, m := range needed {
		if m.value == "" {
			return fmt.Errorf("%s is missing", m.name)
		}
	}
	return nil
}

// checkPool returns an error that names a member of a pool's document which is missing, or one too many.
func (d *Document) checkPool() error {
	for _, m := range []struct{ name, value string }{
		{"game", d.Game.Reveal()}, {"social", d.Social.Reveal()}, {"claim", d.Claim.Reveal()}, {"server", d.Server}, {"instance", d.Instance},
	} {
		if m.value != "" {
			return fmt.Errorf("%s and pool are both there: a server that joins a pool is given its id, its tokens and its instances", m.name)
		}
	}
	for _, m := range []struct{ name, value string }{
		{"namespace", d.Namespace}, {"gateway", d.Gateway}, {"pool.name", d.Pool.Name}, {"pool.server", d.Pool.Server}, {"pool.key", d.Pool.Key.Reveal()},
	} {
		if m.value == "" {
			return fmt.Errorf("%s is missing", m.name)
		}
	}
	if len(d.Pool.Builds) == 0 {
		return errors.New("pool.builds is missing")
	}
	if err := checkEndpoints(d.Pool.Endpoints); err != nil {
		return fmt.Errorf("pool.%w", err)
	}
	return nil
}

func checkEndpoints(endpoints []Endpoint) error {
	seen := make(map[string]bool, len(endpoints))
	for i, e := range endpoints {
		switch {
		case e.Name == "":
			return fmt.Errorf("endpoints[%d].name is missing", i)
		case seen[e.Name]:
			return fmt.Errorf("endpoints[%d].name occurs twice", i)
		case e.Host == "":
			return fmt.Errorf("endpoints[%d].host is missing", i)
		case e.Port == 0:
			return fmt.Errorf("endpoints[%d].port is missing", i)
		case e.Protocol != "tcp" && e.Protocol != "udp":
			return fmt.Errorf("endpoints[%d].protocol is neither tcp nor udp", i)
		}
		seen[e.Name] = true
	}
	return nil
}

// WithEndpoints returns the document with its endpoints replaced, for providers, who learn of them last. Everything else
// stays as it is, members that this version does not know included.
func WithEndpoints(doc []byte, endpoints []Endpoint) ([]byte, error) {
	if err := checkEndpoints(endpoints); err != nil {
		return nil, fmt.Errorf("bootstrap document: %w", err)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(doc, &members); err != nil {
		return nil, fmt.Errorf("bootstrap document: %w", jsonError(err))
	}
	if members == nil {
		return nil, errors.New("bootstrap document: it is null")
	}
	list, err := json.Marshal(endpoints)
	if err != nil {
		return nil, fmt.Errorf("bootstrap document: %w", err)
	}
	members["endpoints"] = list
	return json.Marshal(members)
}

// jsonError says where a document is not as it should be, without quoting it.
func jsonError(err error) error {
	var wrongType *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return fmt.Errorf("%s is not %s", wrongType.Field, wrongType.Type)
	case errors.As(err, &syntax):
		return fmt.Errorf("it is not JSON (at byte %d)", syntax.Offset)
	default:
		return errors.New("it is not a JSON object")
	}
}
