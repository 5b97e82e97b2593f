package door_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/errs"

	"github.com/berth-dev/berth/services/gateway/internal/door"
	"github.com/berth-dev/berth/services/gateway/internal/limit"
)

func open(tb testing.TB, cfg door.Config) *door.Door {
	tb.Helper()
	d, err := door.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// seen returns the RemoteAddr of a request behind the door.
func seen(tb testing.TB, trusted []string, socket string, forwarded ...string) string {
	tb.Helper()
	var got string
	h := open(tb, door.Config{TrustedProxies: trusted}).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.RemoteAddr }))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = socket
	for _, line := range forwarded {
		r.Header.Add("X-Forwarded-For", line)
	}
	h.ServeHTTP(httptest.NewRecorder(), r)
	return got
}

func TestWhereARequestComesFrom(t *testing.T) {
	proxies := []string{"10.0.0.0/8", "2001:db8:1::/48"}
	for name, c := range map[string]struct {
		trusted   []string
		socket    string
		forwarded []string
		want      string
	}{
		"no proxies are trusted":              {nil, "10.1.1.1:5", []string{"203.0.113.7"}, "10.1.1.1:5"},
		"the socket is no proxy":              {proxies, "192.0.2.1:5", []string{"203.0.113.7"}, "192.0.2.1:5"},
		"nothing was forwarded":               {proxies, "10.1.1.1:5", nil, "10.1.1.1:5"},
		"behind a proxy":                      {proxies, "10.1.1.1:5", []string{"203.0.113.7"}, "203.0.113.7:0"},
		"the caller wrote one before":         {proxies, "10.1.1.1:5", []string{"127.0.0.1, 203.0.113.7"}, "203.0.113.7:0"},
		"the caller wrote a line before":      {proxies, "10.1.1.1:5", []string{"127.0.0.1", "203.0.113.7"}, "203.0.113.7:0"},
		"the caller wrote a proxy's":          {proxies, "10.1.1.1:5", []string{"10.9.9.9,203.0.113.7"}, "203.0.113.7:0"},
		"behind two proxies":                  {proxies, "10.1.1.1:5", []string{"198.51.100.1, 203.0.113.7, 10.2.2.2"}, "203.0.113.7:0"},
		"all of it are proxies":               {proxies, "10.1.1.1:5", []string{"10.3.3.3, 10.2.2.2"}, "10.3.3.3:0"},
		"of IPv6":                             {proxies, "[2001:db8:1::1]:5", []string{"2001:db8:2::7"}, "[2001:db8:2::7]:0"},
		"IPv4 as IPv6":                        {proxies, "[::ffff:10.1.1.1]:5", []string{"::ffff:203.0.113.7"}, "203.0.113.7:0"},
		"with a port":                         {proxies, "10.1.1.1:5", []string{"203.0.113.7:4711"}, "203.0.113.7:0"},
		"of IPv6 with a port":                 {proxies, "10.1.1.1:5", []string{"[2001:db8:2::7]:4711"}, "[2001:db8:2::7]:0"},
		"garbage":                             {proxies, "10.1.1.1:5", []string{"not an address"}, "10.1.1.1:5"},
		"garbage behind the proxy":            {proxies, "10.1.1.1:5", []string{"203.0.113.7, unknown"}, "10.1.1.1:5"},
		"garbage that the caller wrote":       {proxies, "10.1.1.1:5", []string{"<script>, 203.0.113.7"}, "203.0.113.7:0"},
		"empty":                               {proxies, "10.1.1.1:5", []string{""}, "10.1.1.1:5"},
		"an empty one at the end":             {proxies, "10.1.1.1:5", []string{"203.0.113.7,"}, "10.1.1.1:5"},
		"a socket that has no address at all": {proxies, "@", []string{"203.0.113.7"}, "@"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := seen(t, c.trusted, c.socket, c.forwarded...); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// Whatever a header says: who is no trusted proxy is where the socket is, and who is one has named an address that is its client's, or is it itself.
func FuzzForwardedFor(f *testing.F) {
	for _, header := range []string{"", "203.0.113.7", "1.2.3.4, 10.0.0.1", "::1", "[::1]:80", "fe80::1%eth0", ",,,", "unknown", "1.2.3.4:99999", "\x00", "::ffff:10.0.0.1"} {
		f.Add(header)
	}
	trusted := []string{"10.0.0.0/8"}
	inside := netip.MustParsePrefix(trusted[0])
	f.Fuzz(func(t *testing.T, header string) {
		if got := seen(t, trusted, "192.0.2.1:5", header); got != "192.0.2.1:5" {
			t.Fatalf("a stranger is %s", got)
		}
		got := seen(t, trusted, "10.1.1.1:5", header)
		ap, err := netip.ParseAddrPort(got)
		if err != nil || ap.Addr().Zone() != "" || ap.Addr().Is4In6() {
			t.Fatalf("%q is no plain address: %v", got, err)
		}
		if got != "10.1.1.1:5" && !inside.Contains(ap.Addr()) {
			last := header[strings.LastIndex(header, ap.Addr().Unmap().String())+1:] // only proxies may stand behind it
			for _, after := range strings.Split(last, ",")[1:] {
				if a, err := netip.ParseAddr(strings.TrimSpace(after)); err == nil && !inside.Contains(a.Unmap()) {
					t.Fatalf("%q: %s is taken, behind which %s stands", header, got, after)
				}
			}
		}
	})
}

func TestSettingsThatCannotBeUsedAreNamed(t *testing.T) {
	for setting, err := range map[string]error{
		"trusted_proxies (BERTH_TRUSTED_PROXIES): \"10.0.0.1\"":                door.ValidateProxies([]string{"10.0.0.1"}),
		"trusted_proxies (BERTH_TRUSTED_PROXIES): 0.0.0.0/0":                   door.ValidateProxies([]string{"10.0.0.0/8", "0.0.0.0/0"}),
		"trusted_proxies (BERTH_TRUSTED_PROXIES): ::/0":                        door.ValidateProxies([]string{"::/0"}),
		"allowed_hosts (BERTH_ALLOWED_HOSTS): \"*\"":                           door.ValidateHosts([]string{"*"}),
		"allowed_hosts (BERTH_ALLOWED_HOSTS): \"a.example:80\"":                door.ValidateHosts([]string{"a.example:80"}),
		"allowed_hosts (BERTH_ALLOWED_HOSTS): \"http://a\"":                    door.ValidateHosts([]string{"http://a"}),
		"allowed_hosts (BERTH_ALLOWED_HOSTS): \"\"":                            door.ValidateHosts([]string{""}),
		"limits.exempt (BERTH_LIMIT_EXEMPT): \"localhost\"":                    door.Rates{Exempt: []string{"localhost"}}.Validate(),
		"limits.address.per_second (BERTH_LIMIT_ADDRESS_PER_SECOND)":           door.Rates{Address: limit.Rate{PerSecond: -1, Burst: 1}}.Validate(),
		"limits.frames.burst (BERTH_LIMIT_FRAMES_BURST): must be 1 to 1000000": door.Rates{Frames: limit.Rate{PerSecond: 1}}.Validate(),
	} {
		if err == nil || !strings.Contains(err.Error(), setting) {
			t.Errorf("%v does not name %s", err, setting)
		}
	}
	if err := door.DefaultRates().Validate(); err != nil {
		t.Error(err)
	}
	if err := door.ValidateHosts([]string{"localhost", "a.example", "192.0.2.7", "::1"}); err != nil {
		t.Error(err)
	}
}

func TestOnlyTheNamesOfTheGatewayOpenTheDoor(t *testing.T) {
	d := open(t, door.Config{AllowedHosts: []string{"localhost", "berth.example"}})
	for host, ok := range map[string]bool{
		"localhost": true, "localhost:7001": true, "LOCALHOST:7001": true, "127.0.0.1:7001": true, "127.9.9.9": true, "[::1]:7001": true, "[::1]": true,
		"[::ffff:127.0.0.1]:1": true, "berth.example": true, "Berth.Example.:443": true,
		"": false, "evil.example:7001": false, "localhost.evil.example": false, "berth.example.evil.example": false, "192.0.2.7": false, "0.0.0.0": false,
		"127.0.0.1.evil.example": false, "xlocalhost": false, "127.1": false, "\xff": false,
	} {
		for what, err := range map[string]error{"call": d.Call(host, "192.0.2.1:5", nil), "upgrade": d.Upgrade(host, "192.0.2.1:5")} {
			if (err == nil) != ok || err != nil && (!errs.Is(err, errs.RoleRequired) || !strings.Contains(err.Error(), "allowed_hosts")) {
				t.Errorf("%s to %q: %v", what, host, err)
			}
		}
	}
	if err := open(t, door.Config{}).Call("any.example", "192.0.2.1:5", nil); err != nil {
		t.Errorf("without a list: %v", err)
	}
}

// stands returns a door at which time stands still.
func stands(tb testing.TB, r door.Rates) *door.Door {
	tb.Helper()
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	return open(tb, door.Config{Rates: r, Now: func() time.Time { return now }})
}

// passed returns how many of so many calls are taken.
func passed(d *door.Door, n int, remote func(int) string, authorization ...string) (taken int) {
	for i := range n {
		if d.Call("h", remote(i), authorization) == nil {
			taken++
		}
	}
	return taken
}

func TestANetworkOfIPv6CountsAsOneAddress(t *testing.T) {
	for name, c := range map[string]struct {
		remote func(int) string
		want   int
	}{
		"one address":             {func(int) string { return "192.0.2.1:5" }, 5},
		"its ports":               {func(i int) string { return netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(1+i)).String() }, 5},
		"it as IPv6":              {func(i int) string { return []string{"192.0.2.1:5", "[::ffff:192.0.2.1]:5"}[i%2] }, 5},
		"addresses of a /64":      {func(i int) string { return "[2001:db8::" + string(rune('a'+i%6)) + "]:5" }, 5},
		"zones":                   {func(i int) string { return "[fe80::1%" + string(rune('a'+i%6)) + "]:5" }, 5},
		"two addresses":           {func(i int) string { return []string{"192.0.2.1:5", "192.0.2.2:5"}[i%2] }, 10},
		"two networks of IPv6":    {func(i int) string { return []string{"[2001:db8::1]:5", "[2001:db8:0:1::1]:5"}[i%2] }, 10},
		"an exempt one":           {func(int) string { return "127.0.0.1:5" }, 20},
		"an exempt one of IPv6":   {func(int) string { return "[2001:db8:7::1]:5" }, 20},
		"sockets without address": {func(int) string { return "@" }, 5},
	} {
		t.Run(name, func(t *testing.T) {
			d := stands(t, door.Rates{Address: limit.Rate{PerSecond: 1, Burst: 5}, Exempt: []string{"127.0.0.0/8", "2001:db8:7::/48"}})
			if got := passed(d, 20, c.remote); got != c.want {
				t.Errorf("%d of 20, want %d", got, c.want)
			}
		})
	}
}

func TestACredentialIsCountedWhereverItIsShown(t *testing.T) {
	d := stands(t, door.Rates{Credential: limit.Rate{PerSecond: 1, Burst: 5}})
	everywhere := func(i int) string {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 5).String()
	}
	if got := passed(d, 20, everywhere, "Bearer a"); got != 5 {
		t.Errorf("%d", got)
	}
	if got := passed(d, 20, everywhere, "Bearer b"); got != 5 {
		t.Errorf("%d with another", got)
	}
	if got := passed(d, 20, everywhere); got != 20 {
		t.Errorf("%d without", got)
	}
	if err := d.Call("h", "192.0.2.1:5", []string{"Bearer a"}); err == nil || strings.Contains(err.Error(), "Bearer") {
		t.Errorf("the error is %v", err)
	}
}

func TestWhatCountsAsRefused(t *testing.T) {
	for reason, counts := range map[errs.Reason]bool{
		errs.CredentialsInvalid: true, errs.CredentialsMissing: true, errs.CredentialsMismatch: true, errs.CredentialsRevoked: true, errs.CredentialsSwapped: true,
		errs.CredentialsExpired: false, errs.RoleRequired: false, errs.InstanceUnknown: false, errs.RateLimited: false, errs.Internal: false, "": false,
	} {
		d := stands(t, door.Rates{Refused: limit.Rate{PerSecond: 1, Burst: 3}})
		for range 3 {
			d.Refused("192.0.2.1:5", reason)
		}
		for what, err := range map[string]error{"call": d.Call("h", "192.0.2.1:6", nil), "upgrade": d.Upgrade("h", "192.0.2.1:6")} {
			if errs.Is(err, errs.RateLimited) != counts {
				t.Errorf("%s after %s: %v", what, reason, err)
			}
		}
		if err := d.Call("h", "192.0.2.2:6", nil); err != nil {
			t.Errorf("from elsewhere: %v", err)
		}
	}
}
