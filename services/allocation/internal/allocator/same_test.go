package allocator

import (
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/berth-dev/berth/services/allocation/internal/placement"
)

// whole has every field set.
func whole() Allocation {
	var a Allocation
	fill(reflect.ValueOf(&a).Elem())
	return a
}

func fill(v reflect.Value) {
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(t0))
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case v.Kind() == reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("k"), reflect.Zero(v.Type().Elem()))
	case v.Kind() == reflect.String:
		v.SetString("s")
	}
}

// each calls change for each value in v, by its path, with a function that changes it.
func each(v reflect.Value, path string, change func(path string, set func())) {
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		change(path, func() { v.Set(reflect.ValueOf(t0.Add(time.Microsecond))) })
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			each(v.Field(i), path+"."+v.Type().Field(i).Name, change)
		}
	case v.Kind() == reflect.Slice:
		each(v.Index(0), path, change)
		change(path+", one more", func() { v.Set(reflect.AppendSlice(v, v)) })
	case v.Kind() == reflect.Map:
		change(path, func() { v.SetMapIndex(reflect.ValueOf("l"), reflect.Zero(v.Type().Elem())) })
	case v.Kind() == reflect.String:
		change(path, func() { v.SetString("t") })
	case v.Kind() == reflect.Bool:
		change(path, func() { v.SetBool(!v.Bool()) })
	case v.CanInt():
		change(path, func() { v.SetInt(v.Int() + 1) })
	case v.CanUint():
		change(path, func() { v.SetUint(v.Uint() + 1) })
	default:
		panic("this test does not know the type of " + path)
	}
}

// A change of any field is written, but for those that the store keeps for itself.
func TestEveryChangeIsWritten(t *testing.T) {
	untold := []string{".Rev", ".Stored", ".Stored, one more", ".CallAt"}
	paths := 0
	a := whole()
	each(reflect.ValueOf(&a).Elem(), "", func(string, func()) { paths++ })
	if paths < 50 {
		t.Errorf("only %d values found", paths)
	}
	for n := range paths {
		a, b, at := whole(), whole(), 0
		if !a.same(&b) {
			t.Fatal("two of the same are not")
		}
		each(reflect.ValueOf(&b).Elem(), "", func(path string, set func()) {
			if at++; at-1 != n {
				return
			}
			set()
			if same := a.same(&b); same != slices.Contains(untold, path) {
				t.Errorf("%s was changed: same is %v", path, same)
			}
		})
	}
}

func BenchmarkSame(b *testing.B) {
	x := queued(time.Time{})
	x.Placement.Labels = map[string]string{"mode": "duel"}
	x.Explanation.Candidates = []Candidate{{Candidate: placement.Candidate{Provider: "one"}}, {Candidate: placement.Candidate{Provider: "two"}}}
	y := x
	y.Placement.Labels = maps.Clone(x.Placement.Labels)
	for b.Loop() {
		if !x.same(&y) {
			b.Fatal("two of the same are not")
		}
	}
}
