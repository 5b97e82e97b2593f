package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// apiCase is one call and what must come of it. testdata/README.md describes its fields.
type apiCase struct {
	Name string `yaml:"name"`
	// Stack names a stack of its own for the cases that say so, one for each way, which play on it in the order of their file.
	Stack     string    `yaml:"stack"`
	RPC       rpcs      `yaml:"rpc"`
	Given     string    `yaml:"given"`
	Key       string    `yaml:"key"`
	Steps     []step    `yaml:"steps"`
	Request   yaml.Node `yaml:"request"`
	Over      string    `yaml:"over"`
	Body      yaml.Node `yaml:"body"`
	Query     string    `yaml:"query"`
	Wire      yaml.Node `yaml:"wire"`
	Fails     *failure  `yaml:"fails"`
	FailsREST *failure  `yaml:"fails_over_rest"`
	Answers   yaml.Node `yaml:"answers"`
	Ends      bool      `yaml:"ends"`
	// Needs is what the case waits for; it is skipped until then.
	Needs string `yaml:"needs"`

	file   string
	method protoreflect.MethodDescriptor
}

// step prepares a case. It is a call, which is repeated until its answer has what `until` says, or its failure the reason; or something that a
// registered game server does.
type step struct {
	As         string    `yaml:"as"`
	RPC        string    `yaml:"rpc"`
	Key        string    `yaml:"key"`
	Request    yaml.Node `yaml:"request"`
	Until      yaml.Node `yaml:"until"`
	UntilFails string    `yaml:"until_fails"`
	// Links and GivesUp name the answer with which a game server was registered.
	Links   string `yaml:"links"`
	GivesUp string `yaml:"gives_up"`
}

// failure is what a refused call must answer. Code and HTTP status follow from the reason, by the table of docs/errors.md.
type failure struct {
	Reason string `yaml:"reason"`
	// Field is the one that all of the message is about, as a path in the proto's spelling.
	Field string `yaml:"field"`
	// Says is further text that the message must have.
	Says string `yaml:"says"`
	// HTTP is the status where the table names a second one.
	HTTP int `yaml:"http"`
}

// rpcs is the name of an rpc, or a list of them for a case that is the same for each.
type rpcs []string

// UnmarshalYAML implements yaml.Unmarshaler.
func (r *rpcs) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		*r = rpcs{n.Value}
		return nil
	}
	return n.Decode((*[]string)(r))
}

// base is what cases share.
type base struct {
	// Requests has the smallest good request of each rpc, over which those of the cases are laid.
	Requests map[string]yaml.Node `yaml:"requests"`
	// Given has the set-ups by name.
	Given map[string][]step `yaml:"given"`
	// Usual names the set-up of cases that do not say, by service.
	Usual map[string]string `yaml:"usual"`
	// Unchanged are rpcs whose answers must be the same after a refused call, by service.
	Unchanged map[string][]string `yaml:"unchanged"`

	rpcs []protoreflect.MethodDescriptor
	good map[string]yaml.Node // Requests, by the title of their rpc
}

type corpus struct {
	base  base
	cases []apiCase
}

// load reads the corpus. What it does not know in a file is an error: a misspelt expectation would expect nothing.
func load(t *testing.T) *corpus {
	t.Helper()
	c := &corpus{}
	decode(t, "testdata/base.yaml", &c.base)
	if err := c.base.complete(); err != nil {
		t.Fatalf("testdata/base.yaml: %v", err)
	}
	files, err := filepath.Glob("testdata/cases/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	seen := map[string]bool{}
	for _, file := range files {
		var cases []apiCase
		decode(t, file, &cases)
		for _, ac := range cases {
			for _, name := range ac.RPC {
				one := ac
				one.file, one.Name = strings.TrimSuffix(filepath.Base(file), ".yaml"), name+"/"+ac.Name
				if one.method, err = find(c.base.rpcs, name); err == nil {
					err = one.check(c.base)
				}
				if err != nil {
					t.Fatalf("%s: %q: %v", file, one.Name, err)
				}
				if seen[one.Name] {
					t.Fatalf("%s: %q is there twice", file, one.Name)
				}
				seen[one.Name] = true
				c.cases = append(c.cases, one)
			}
		}
	}
	return c
}

// complete finds the rpcs that are named.
func (b *base) complete() (err error) {
	if b.rpcs, err = asked(); err != nil {
		return err
	}
	b.good = map[string]yaml.Node{}
	for name, request := range b.Requests {
		m, err := find(b.rpcs, name)
		if err != nil {
			return err
		}
		b.good[title(m)] = request
	}
	for _, name := range slices.Concat(slices.Collect(maps.Values(b.Unchanged))...) {
		if _, err := find(b.rpcs, name); err != nil {
			return err
		}
	}
	return nil
}

func decode(t *testing.T, path string, out any) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true)
	if err := d.Decode(out); err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("%s: %v", path, err)
	}
}

// check refuses a case that could not fail, or that nobody would run.
func (c *apiCase) check(b base) error {
	if c.Given == "" {
		c.Given = b.Usual[string(c.method.Parent().Name())]
	}
	if c.Given == "" {
		c.Given = "nothing"
	}
	if c.Key == "" {
		c.Key = usualKey(c.method)
	}
	switch {
	case strings.HasSuffix(c.Name, "/"):
		return errors.New("has no name")
	case b.Given[c.Given] == nil && c.Given != "nothing":
		return fmt.Errorf("there is no set-up %q; there are %v", c.Given, slices.Sorted(maps.Keys(b.Given)))
	case !slices.Contains(append(keyNames(), noKey, unknownKey, serviceKey), c.Key) && !reference.MatchString(c.Key):
		return fmt.Errorf("there is no key %q", c.Key)
	case !slices.Contains([]string{"", "grpc", "rest"}, c.Over):
		return fmt.Errorf("there is no way %q to call", c.Over)
	case (c.Fails == nil) == c.Answers.IsZero():
		return errors.New("needs either fails or answers")
	case c.Fails != nil && c.Fails.Field == "" && c.Fails.Says == "":
		return errors.New("fails needs a field, or what else the message says")
	case len(c.ways()) == 0:
		return errors.New("is run over nothing")
	}
	return nil
}

// ways are those over which the case is run. What only one of them can say, only that one is asked.
func (c *apiCase) ways() []string {
	if c.Over != "" {
		return []string{c.Over}
	}
	if httpRule(c.method) == nil || c.Key == serviceKey { // REST takes no internal key
		return []string{"grpc"}
	}
	rest, wire := !c.Body.IsZero() || c.Query != "", !c.Wire.IsZero()
	switch {
	case rest && !wire:
		return []string{"rest"}
	case wire && !rest:
		return []string{"grpc"}
	default:
		return []string{"grpc", "rest"}
	}
}

// want is the failure that is expected over a way.
func (c *apiCase) want(way string) *failure {
	if way == "rest" && c.FailsREST != nil {
		return c.FailsREST
	}
	return c.Fails
}

// request lays a case's request over the good one of its rpc; null takes a field away.
func (b base) request(m protoreflect.MethodDescriptor, over *yaml.Node) (map[string]any, error) {
	good := b.good[title(m)]
	out, err := object(&good)
	if err != nil {
		return nil, err
	}
	changes, err := object(over)
	if err != nil {
		return nil, err
	}
	if _, named := out["namespace"]; !named && hasNamespace(m) {
		out["namespace"] = "${namespace}"
	}
	for key, v := range changes {
		if v == nil {
			delete(out, key)
		} else {
			out[key] = v
		}
	}
	return out, nil
}

// hasNamespace reports whether the requests of an rpc are about a namespace.
func hasNamespace(m protoreflect.MethodDescriptor) bool {
	return m.Input().Fields().ByName("namespace") != nil
}
