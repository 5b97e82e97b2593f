package egress_test

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/berth-dev/berth/pkg/egress"
)

func TestMain(m *testing.M) {
	for _, name := range []string{"HTTPS_PROXY", "https_proxy"} { // read once, by whoever is first
		if err := os.Setenv(name, "http://192.0.2.1:1"); err != nil {
			log.Fatal(err)
		}
	}
	goleak.VerifyTestMain(m)
}

// site is a server with TLS on 127.0.0.1, and the configuration that believes its certificate.
type site struct {
	*httptest.Server
	config egress.Config
	asked  atomic.Int32
}

func newSite(t *testing.T, handler http.HandlerFunc) *site {
	t.Helper()
	s := &site{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		handler(w, r)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	s.config = egress.Config{Allow: []string{"127.0.0.0/8"}, CAFile: file}
	return s
}

func hello(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }

func get(t *testing.T, c egress.Config, o egress.Options, address string) (string, error) {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	if o.MaxBody == 0 {
		o.MaxBody = 100
	}
	client, err := c.Client(o)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := egress.Get(t.Context(), client, address)
	return string(raw), err
}

func refused(err error) bool {
	var is *egress.RefusedError
	return errors.As(err, &is)
}

func TestALoopbackAddressIsReachedOnlyByException(t *testing.T) {
	s := newSite(t, hello)
	if got, err := get(t, s.config, egress.Options{}, s.URL); err != nil || got != "hello" {
		t.Errorf("allowed: %q, %v", got, err)
	}
	s.config.Allow = []string{"10.0.0.0/8"}
	_, err := get(t, s.config, egress.Options{}, s.URL)
	if !refused(err) || !strings.Contains(err.Error(), "127.0.0.1") || !strings.Contains(err.Error(), "egress.allow (BERTH_EGRESS_ALLOW)") || s.asked.Load() != 1 {
		t.Errorf("not allowed: %v, asked %d times", err, s.asked.Load())
	}
}

// resolver answers every name with an address, from a server of its own; what it answers changes with each question if there are several.
func resolver(t *testing.T, addrs ...[4]byte) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	t.Cleanup(func() { _ = conn.Close(); <-served })
	go func() {
		defer close(served)
		next := 0
		for buf := make([]byte, 512); ; {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if err := m.Unpack(buf[:n]); err != nil {
				continue
			}
			m.Response, m.Additionals = true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class}, Body: &dnsmessage.AResource{A: addrs[next%len(addrs)]}}}
				next++
			}
			if out, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(out, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// named is the site's address with a name instead of its IP; httptest's certificate is for example.com.
func (s *site) named() string { return strings.Replace(s.URL, "127.0.0.1", "example.com", 1) }

func TestANameThatResolvesToAPrivateAddressIsRefused(t *testing.T) {
	s := newSite(t, hello)
	loopback := egress.Options{Resolver: resolver(t, [4]byte{127, 0, 0, 1})}
	if got, err := get(t, s.config, loopback, s.named()); err != nil || got != "hello" {
		t.Fatalf("by name, as an exception: %q, %v", got, err)
	}
	s.config.Allow = nil
	if _, err := get(t, s.config, loopback, s.named()); !refused(err) {
		t.Errorf("by name: %v", err)
	}
	_, err := get(t, s.config, egress.Options{Resolver: resolver(t, [4]byte{169, 254, 169, 254})}, "https://example.com")
	if !refused(err) || !strings.Contains(err.Error(), "169.254.169.254") {
		t.Errorf("metadata: %v", err)
	}
	if s.asked.Load() != 1 {
		t.Errorf("asked %d times", s.asked.Load())
	}
}

// A name that resolves to one address when it is looked at and to another when it is connected to gains nothing: each address is checked by itself.
func TestANameThatChangesItsAddressIsRefused(t *testing.T) {
	s := newSite(t, hello)
	s.config.Allow = []string{"127.0.0.1/32"}
	o := egress.Options{Resolver: resolver(t, [4]byte{127, 0, 0, 1}, [4]byte{10, 0, 0, 1})}
	if _, err := get(t, s.config, o, s.named()); err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, s.config, o, s.named()); !refused(err) || !strings.Contains(err.Error(), "10.0.0.1") {
		t.Errorf("the second time: %v", err)
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	other := newSite(t, hello)
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	})
	if _, err := get(t, s.config, egress.Options{}, s.URL); !errors.Is(err, egress.ErrRedirect) || other.asked.Load() != 0 {
		t.Errorf("got %v, and the other was asked %d times", err, other.asked.Load())
	}
}

func TestAnAnswerIsBounded(t *testing.T) {
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/exact" {
			_, _ = io.WriteString(w, strings.Repeat("x", 100))
			return
		}
		for r.Context().Err() == nil { // until the client hangs up
			if _, err := io.WriteString(w, strings.Repeat("x", 1000)); err != nil {
				return
			}
		}
	})
	var large *egress.TooLargeError
	if _, err := get(t, s.config, egress.Options{}, s.URL); !errors.As(err, &large) || large.Limit != 100 {
		t.Errorf("a body that never ends: %v", err)
	}
	if got, err := get(t, s.config, egress.Options{}, s.URL+"/exact"); err != nil || len(got) != 100 {
		t.Errorf("a body of the limit: %d bytes, %v", len(got), err)
	}
}

func TestAServerThatHangsIsLeft(t *testing.T) {
	for name, answer := range map[string]func(http.ResponseWriter){
		"before the header": func(http.ResponseWriter) {},
		"in the body":       func(w http.ResponseWriter) { w.(http.Flusher).Flush() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, func(w http.ResponseWriter, r *http.Request) { answer(w); <-r.Context().Done() })
			_, err := get(t, s.config, egress.Options{Timeout: 200 * time.Millisecond}, s.URL)
			var late interface{ Timeout() bool }
			if !errors.As(err, &late) || !late.Timeout() {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestOnlyHTTPSIsSpoken(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(hello))
	defer plain.Close()
	s := newSite(t, hello)
	for address, want := range map[string]error{
		plain.URL:                     egress.ErrNotHTTPS,
		"ftp://example.com":           egress.ErrNotHTTPS,
		"file:///etc/passwd":          egress.ErrNotHTTPS,
		"https://user:pw@example.com": egress.ErrUserinfo,
	} {
		_, err := get(t, s.config, egress.Options{}, address)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v", address, err)
		}
		if err != nil && strings.Contains(err.Error(), "pw") {
			t.Errorf("the error has the password: %v", err)
		}
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if err := egress.CheckURL(u); !errors.Is(err, want) {
			t.Errorf("%s: %v", address, err)
		}
	}
	if err := egress.CheckURL(&url.URL{Scheme: "https", Host: ":443"}); err == nil {
		t.Error("an address without a host")
	}
}

func TestACertificateOfAnUnknownAuthorityIsRefused(t *testing.T) {
	s := newSite(t, hello)
	s.config.CAFile = ""
	if _, err := get(t, s.config, egress.Options{}, s.URL); err == nil || s.asked.Load() != 0 {
		t.Errorf("got %v", err)
	}
	for name, content := range map[string]string{"missing": "", "empty": "nothing"} {
		file := filepath.Join(t.TempDir(), "ca.pem")
		if content != "" {
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := (egress.Config{CAFile: file}).Client(egress.Options{}); err == nil || !strings.Contains(err.Error(), "egress.ca_file (BERTH_EGRESS_CA_FILE)") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A proxy would resolve the name, and be where the connection goes.
func TestNoProxyOfTheEnvironmentIsUsed(t *testing.T) {
	s := newSite(t, hello)
	o := egress.Options{Resolver: resolver(t, [4]byte{127, 0, 0, 1})}
	if got, err := get(t, s.config, o, s.named()); err != nil || got != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
}
