package api

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/berth-dev/berth/pkg/auth"
)

var status3 = regexp.MustCompile(`[1-5]\d\d`)

func TestEveryCaseOverGRPCAndREST(t *testing.T) {
	c := load(t)
	all, table := stacks{t: t, local: local(t), started: map[string]*stack{}}, errorTable(t)
	for n, ac := range c.cases {
		for _, name := range ac.ways() {
			t.Run(ac.file+"/"+ac.Name+"/"+name, func(t *testing.T) {
				// Each has a namespace of its own, so that it can see everything that a refused call might have done.
				r := run{t: t, stack: all.of(ac.Stack, name), base: c.base, answers: answers{"namespace": fmt.Sprintf("n%d-%s", n, name)}}
				r.play(ac, name, table)
			})
		}
	}
}

// run is a case that is played over one way.
type run struct {
	t       *testing.T
	stack   *stack
	base    base
	answers answers
}

func (r *run) play(ac apiCase, name string, table map[string]documented) {
	r.t.Helper()
	if ac.Needs != "" && os.Getenv("BERTH_TEST_NEEDS") == "" {
		r.t.Skipf("needs %s", ac.Needs)
	}
	for _, steps := range [][]step{r.base.Given[ac.Given], ac.Steps} {
		for n, st := range steps {
			if err := r.step(st); err != nil {
				r.t.Fatalf("step %d before the call, %s: %v", n+1, st.RPC, err)
			}
		}
	}
	c, err := r.prepare(ac.method, ac.Key, &ac.Request)
	if err != nil {
		r.t.Fatal(err)
	}
	want, err := r.filled(&ac.Answers)
	if err != nil {
		r.t.Fatal(err)
	}
	expected, _ := want.([]any)
	c.answers, c.ends, c.query = max(1, len(expected)), ac.Ends, ac.Query
	if c.body, err = r.text(&ac.Body); err == nil {
		c.wire, err = r.text(&ac.Wire)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	before := r.state(ac)
	got, err := map[string]way{"grpc": r.stack.grpcWay, "rest": r.stack.restWay}[name](c)
	if err != nil {
		r.t.Fatal(err)
	}
	f := ac.want(name)
	if f == nil {
		if got.refused != nil {
			r.t.Errorf("refused with %s", got.refused)
		} else if diff := mismatch("answers", want, any(got.messages)); diff != "" {
			r.t.Error(diff)
		}
		return
	}
	if got.refused == nil {
		r.t.Fatalf("answered %.300v, want %s", got.messages, f.Reason)
	}
	says, err := r.answers.fill(f.Says)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, wrong := range f.differs(got.refused, table, fmt.Sprint(says)) {
		r.t.Errorf("%s: answered %s", wrong, got.refused)
	}
	if after := r.state(ac); after != before {
		r.t.Errorf("a refused call changed something: it was\n%s\nand is\n%s", before, after)
	}
}

// differs says what is wrong with a refusal.
func (f *failure) differs(got *refusal, table map[string]documented, says string) []string {
	var wrong []string
	doc := table[f.Reason]
	if got.reason != f.Reason {
		wrong = append(wrong, "the reason is not "+f.Reason)
	}
	if got.code.String() != doc.code {
		wrong = append(wrong, "the code is not "+doc.code)
	}
	if got.http != 0 {
		want := f.HTTP
		if want == 0 && len(doc.http) > 0 {
			want, _ = strconv.Atoi(doc.http[0])
		}
		if got.http != want || !slices.Contains(doc.http, strconv.Itoa(want)) {
			wrong = append(wrong, fmt.Sprintf("the HTTP status is not %d", want))
		}
	}
	if f.Field != "" && !strings.HasPrefix(got.message, f.Field+": ") {
		wrong = append(wrong, "the message is not about "+f.Field)
	}
	if !strings.Contains(got.message, says) {
		wrong = append(wrong, fmt.Sprintf("the message does not say %q", says))
	}
	return wrong
}

// step does what comes before the call of a case, over gRPC.
func (r *run) step(st step) error {
	switch {
	case st.Links != "":
		_, err := r.link(st.Links)
		return err
	case st.GivesUp != "":
		return r.giveUp(st.GivesUp)
	}
	method, err := find(r.base.rpcs, st.RPC)
	if err != nil {
		return err
	}
	key := st.Key
	if key == "" {
		key = usualKey(method)
	}
	c, err := r.prepare(method, key, &st.Request)
	if err != nil {
		return err
	}
	c.answers = 1
	want, err := r.filled(&st.Until)
	if err != nil {
		return err
	}
	once := func() error {
		got, err := r.stack.grpcWay(c)
		switch {
		case err != nil:
			return err
		case got.refused != nil && got.refused.reason == st.UntilFails:
			return nil
		case got.refused != nil:
			return errors.New(got.refused.String())
		case st.UntilFails != "":
			return fmt.Errorf("it does not fail with %s", st.UntilFails)
		}
		if want != nil {
			if diff := mismatch("answer", want, got.messages[0]); diff != "" {
				return errors.New(diff)
			}
		}
		if st.As != "" {
			r.answers[st.As] = got.messages[0]
		}
		return nil
	}
	if want != nil || st.UntilFails != "" {
		return eventually(once)
	}
	return once()
}

func (r *run) prepare(method protoreflect.MethodDescriptor, key string, over *yaml.Node) (call, error) {
	request, err := r.base.request(method, over)
	if err != nil {
		return call{}, err
	}
	filled, err := r.answers.fill(request)
	if err != nil {
		return call{}, err
	}
	credentials, err := r.credentials(key)
	m, _ := filled.(map[string]any)
	return call{method: method, credentials: credentials, request: m}, err
}

// credentials returns the headers that show a key: one with a name, or one that an answer has.
func (r *run) credentials(key string) ([]string, error) {
	switch {
	case key == noKey:
		return nil, nil
	case key == serviceKey:
		return []string{auth.MetadataInternalKey, internalKey.Reveal()}, nil
	case reference.MatchString(key):
		made, err := r.answers.fill(key)
		return []string{auth.MetadataAuthorization, fmt.Sprint("Bearer ", made)}, err
	default:
		return []string{auth.MetadataAuthorization, "Bearer " + secretOf(key)}, nil
	}
}

// filled returns a node's value with its references filled in; nil for none.
func (r *run) filled(n *yaml.Node) (any, error) {
	if n.IsZero() {
		return nil, nil
	}
	v, err := value(n)
	if err != nil {
		return nil, err
	}
	return r.answers.fill(v)
}

// text is filled for what is sent as it is: texts, or a list of texts that follow each other.
func (r *run) text(n *yaml.Node) (*string, error) {
	v, err := r.filled(n)
	if v == nil || err != nil {
		return nil, err
	}
	parts, ok := v.([]any)
	if !ok {
		parts = []any{v}
	}
	var b strings.Builder
	for _, part := range parts {
		_, _ = fmt.Fprint(&b, part)
	}
	s := b.String()
	return &s, nil
}

// state returns what a refused call must not change: instances with their revisions, for example.
func (r *run) state(ac apiCase) string {
	r.t.Helper()
	var all []string
	for _, name := range r.base.Unchanged[string(ac.method.Parent().Name())] {
		method, err := find(r.base.rpcs, name)
		if err != nil {
			r.t.Fatal(err)
		}
		c, err := r.prepare(method, usualKey(method), &yaml.Node{})
		if err != nil {
			r.t.Fatal(err)
		}
		got, err := r.stack.grpcWay(c)
		if err != nil || got.refused != nil {
			r.t.Fatalf("%s: %v %v", name, err, got.refused)
		}
		all = append(all, fmt.Sprint(got.messages...))
	}
	return strings.Join(all, "\n")
}
