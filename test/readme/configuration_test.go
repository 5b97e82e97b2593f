package readme_test

import (
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/services/allocation"
	"github.com/berth-dev/berth/services/berth/dev"
	"github.com/berth-dev/berth/services/gameinstance"
	"github.com/berth-dev/berth/services/gateway"
	"github.com/berth-dev/berth/services/tokenissuer"
)

// setting is a leaf of a configuration.
type setting struct {
	key, env string
	value    reflect.Value
	inList   bool // has no default of its own: an entry of a list or map
}

// services returns the defaults of the four services by the name of their binaries.
func services() map[string]any {
	return map[string]any{
		"berth-game-instance": gameinstance.Default(),
		"berth-token-issuer":  tokenissuer.Default(),
		"berth-allocation":    allocation.Default(),
		"berth-gateway":       gateway.Default(),
	}
}

// settings walks a configuration.
func settings(cfg any) []setting {
	var out []setting
	walk(reflect.ValueOf(cfg), setting{}, "BERTH_", &out)
	return out
}

func walk(v reflect.Value, at setting, prefix string, out *[]setting) {
	for i := range v.NumField() {
		field, value := v.Type().Field(i), v.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		if name == "-" || value.Type() == reflect.TypeFor[net.Listener]() {
			continue
		}
		s := setting{key: strings.TrimPrefix(at.key+"."+name, "."), inList: at.inList, value: value}
		if env, _, _ := strings.Cut(field.Tag.Get("env"), ","); env != "" && prefix != "" {
			s.env = prefix + env
		}
		below := "" // no variable reaches into a list
		if p := field.Tag.Get("envPrefix"); p != "" && prefix != "" {
			below = prefix + p
		}
		switch {
		case options == "inline":
			walk(value, at, prefix, out)
		case value.Kind() == reflect.Struct:
			walk(value, s, below, out)
		case value.Kind() == reflect.Slice && value.Type().Elem().Kind() == reflect.Struct:
			walk(reflect.New(value.Type().Elem()).Elem(), setting{key: s.key + "[]", inList: true}, "", out)
		case value.Kind() == reflect.Map && value.Type().Elem().Kind() == reflect.Struct:
			walk(reflect.New(value.Type().Elem()).Elem(), setting{key: s.key + ".NAME", inList: true}, "", out)
		default:
			*out = append(*out, s)
		}
	}
}

// documented returns the rows of a section by their keys.
func documented(t *testing.T, heading string) map[string][]string {
	t.Helper()
	out := make(map[string][]string)
	for _, row := range rows(section(t, page(t, "docs/configuration.md"), heading)) {
		if len(row) != 4 {
			continue
		}
		if out[row[0]] != nil {
			t.Errorf("docs/configuration.md: %s: %s is there twice", heading, row[0])
		}
		out[row[0]] = row
	}
	return out
}

// Every setting of every service is on the page, with its variable and its default, and nothing else is.
func TestConfiguration(t *testing.T) {
	common := documented(t, "All services")
	for _, name := range slices.Sorted(maps.Keys(services())) {
		own := documented(t, name)
		if name == "berth-allocation" {
			hostSettings(t, own)
		}
		used := make(map[string]bool)
		for _, s := range settings(services()[name]) {
			row, ok := own[s.key]
			if !ok {
				row, ok = common[s.key]
			}
			if !ok {
				t.Errorf("docs/configuration.md: %s: %s is missing", name, s.key)
				continue
			}
			used[s.key] = true
			if got := strings.Replace(row[1], "–", "", 1); got != s.env {
				t.Errorf("docs/configuration.md: %s: the variable of %s is %q and not %q", name, s.key, s.env, got)
			}
			if !s.inList && !sameDefault(s, row[2]) {
				t.Errorf("docs/configuration.md: %s: the default of %s is %v and not %s", name, s.key, s.value, row[2])
			}
		}
		for key := range own {
			if !used[key] {
				t.Errorf("docs/configuration.md: %s has no setting %s", name, key)
			}
		}
		for key := range common {
			if !used[key] {
				t.Errorf("docs/configuration.md: %s has no setting %s, which is said to be one of all services", name, key)
			}
		}
	}
}

// hostSettings adds the settings of hosting providers that have a page of their own.
func hostSettings(t *testing.T, own map[string][]string) {
	t.Helper()
	for _, path := range pages(t) {
		if kind, ok := hostPage(path); ok {
			for _, row := range rows(section(t, page(t, path), "Settings")) {
				if len(row) != 3 || !strings.HasPrefix(row[0], kind+".") {
					t.Errorf("%s: a row of its settings is not one: %q", path, row)
					continue
				}
				own["providers[]."+row[0]] = []string{"providers[]." + row[0], "–", row[1], row[2]}
			}
		}
	}
}

// hostPage returns the kind of the hosting provider that a page is about.
func hostPage(path string) (kind string, ok bool) {
	name, ok := strings.CutPrefix(filepath.ToSlash(path), "docs/providers/")
	return strings.TrimSuffix(name, ".md"), ok && name != "README.md"
}

// The examples of each hosting provider's page are configurations: each fence of YAML that is none is something for another program, and says what.
func TestExamplesOfHosts(t *testing.T) {
	for _, path := range pages(t) {
		kind, ok := hostPage(path)
		if !ok {
			continue
		}
		fences := strings.Split(page(t, path), "\n```yaml\n")[1:]
		for n, fence := range fences {
			example, _, closed := strings.Cut(fence, "\n```")
			switch {
			case !closed:
				t.Errorf("%s: example %d is not closed", path, n+1)
			case strings.HasPrefix(example, "providers:\n"):
				exampleOfHost(t, fmt.Sprintf("%s: example %d", path, n+1), kind, example)
			case !strings.HasPrefix(example, "apiVersion:") && !strings.HasPrefix(example, "#"):
				t.Errorf("%s: example %d begins neither with providers: nor with what it is", path, n+1)
			}
		}
		if len(fences) == 0 || !strings.HasPrefix(fences[0], "providers:\n") {
			t.Errorf("%s: the first example does not begin with providers:", path)
		}
	}
}

func exampleOfHost(t *testing.T, what, kind, example string) {
	t.Helper()
	cfg := allocation.Default()
	d := yaml.NewDecoder(strings.NewReader(example))
	d.KnownFields(true)
	if err := d.Decode(&cfg); err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	cfg.Auth.InternalKey = conf.Secret(strings.Repeat("k", 32))
	if err := cfg.Validate(); err != nil || cfg.Providers[0].Kind != kind {
		t.Errorf("%s, of kind %s: %v", what, cfg.Providers[0].Kind, err)
	}
}

// sameDefault compares a default with what the page says.
func sameDefault(s setting, said string) bool {
	if said == "–" {
		said = ""
	}
	switch v := s.value.Interface().(type) {
	case time.Duration:
		d, err := time.ParseDuration(said)
		return err == nil && d == v
	case []string:
		return said == strings.Join(v, ",")
	default:
		return said == fmt.Sprint(v)
	}
}

// The file of `berth dev` has the blocks that the page names.
func TestDevConfiguration(t *testing.T) {
	var want []string
	file := reflect.TypeFor[dev.File]()
	for i := range file.NumField() {
		want = append(want, file.Field(i).Tag.Get("yaml"))
	}
	got := slices.Sorted(maps.Keys(documented(t, "berth dev")))
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("docs/configuration.md: the file of berth dev has the blocks %v and not %v", want, got)
	}
}

var flagVar = regexp.MustCompile(`f\.(?:String|StringSlice|Bool|Int|Duration)Var\(&o\.\w+, "([a-z-]+)", ([^,]+),`)

// The flags of `berth dev` are on the page, with their defaults.
func TestDevFlags(t *testing.T) {
	listed := make(map[string]string)
	for _, row := range rows(section(t, page(t, "docs/configuration.md"), "berth dev")) {
		if len(row) == 3 {
			listed[row[0]] = strings.Replace(row[1], "–", "", 1)
		}
	}
	flags := flagVar.FindAllStringSubmatch(page(t, "services/berth/main.go"), -1)
	if len(flags) == 0 {
		t.Fatal("no flags found in services/berth/main.go")
	}
	for _, m := range flags {
		flag, value := "--"+m[1], strings.TrimPrefix(strings.Trim(m[2], `"`), "nil") // no list is no default
		if got, ok := listed[flag]; !ok || got != value {
			t.Errorf("docs/configuration.md: %s has default %q and the page says %q (listed: %v)", flag, value, got, ok)
		}
		delete(listed, flag)
	}
	for flag := range listed {
		t.Errorf("docs/configuration.md: berth dev has no flag %s", flag)
	}
}
