package apikey_test

import (
	"fmt"
	"math"
	"regexp"
	"strings"
	"testing"

	"github.com/berth-dev/berth/pkg/apikey"
)

var form = regexp.MustCompile(`^berth_[0-9A-Za-z]{49}$`)

func TestGenerate(t *testing.T) {
	seen := make(map[string]bool)
	count := make(map[byte]int)
	const keys = 2000
	for range keys {
		key, hash := apikey.Generate()
		raw := key.Reveal()
		if !form.MatchString(raw) || !apikey.Valid(raw) || seen[raw] || hash != apikey.Hash(raw) {
			t.Fatalf("%q with hash %s", raw, hash)
		}
		seen[raw] = true
		for i := range 43 {
			count[raw[len(apikey.Prefix)+i]]++
		}
		if strings.Contains(fmt.Sprintf("%v %+v %#v %s", key, key, key, key), raw) {
			t.Fatal("the key is printed")
		}
	}
	// Every character comes about equally often: eight standard deviations are no chance.
	mean := float64(keys*43) / 62
	for c, n := range count {
		if math.Abs(float64(n)-mean) > 8*math.Sqrt(mean) {
			t.Errorf("%q occurs %d times, and not about %.0f", c, n, mean)
		}
	}
	if len(count) != 62 {
		t.Errorf("%d characters occur", len(count))
	}
}

// What is written down somewhere must go on being valid: this key was made once and for all, its checksum by another program.
func TestValid(t *testing.T) {
	const body = "berth_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg"
	const good = body + "2rBhNh"
	for name, tc := range map[string]struct {
		key  string
		want bool
	}{
		"good":               {good, true},
		"checksum off":       {body + "000000", false},
		"one character off":  {strings.Replace(good, "A", "B", 1), false},
		"two exchanged":      {strings.Replace(good, "01", "10", 1), false},
		"cut off":            {good[:len(good)-1], false},
		"one more":           {good + "0", false},
		"other prefix":       {"Berth_" + good[6:], false},
		"no prefix":          {good[6:], false},
		"empty":              {"", false},
		"prefix alone":       {"berth_", false},
		"not of the letters": {"berth_" + strings.Repeat("-", 49), false},
		"not ASCII":          {"berth_" + strings.Repeat("é", 24) + "0", false},
	} {
		if apikey.Valid(tc.key) != tc.want {
			t.Errorf("%s: %q: %v", name, tc.key, !tc.want)
		}
	}
}

// FuzzValid: whatever comes in, there is no panic, and what is valid has the form that scanners look for.
func FuzzValid(f *testing.F) {
	key, _ := apikey.Generate()
	f.Add(key.Reveal())
	f.Add("berth_")
	f.Add("berth_" + strings.Repeat("0", 49))
	f.Fuzz(func(t *testing.T, raw string) {
		if apikey.Valid(raw) && !form.MatchString(raw) {
			t.Errorf("%q is valid", raw)
		}
	})
}
