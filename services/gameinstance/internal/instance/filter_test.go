package instance_test

import (
	"testing"

	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

func TestAFilterHoldsWhereAllOfItDoes(t *testing.T) {
	inst := &instance.Instance{
		State: instance.Running, Labels: map[string]string{"mode": "duel", "empty": ""}, Placement: instance.Placement{Build: "b"},
		Players:  map[string]instance.Player{"ann": {ID: "ann"}},
		Attempts: []instance.Attempt{{Region: "us"}, {Region: "eu"}},
	}
	for name, c := range map[string]struct {
		filter instance.Filter
		want   bool
	}{
		"all":              {instance.Filter{}, true},
		"state":            {instance.Filter{States: []instance.State{instance.Pending, instance.Running}}, true},
		"other state":      {instance.Filter{States: []instance.State{instance.Pending}}, false},
		"region":           {instance.Filter{Region: "eu"}, true},
		"old region":       {instance.Filter{Region: "us"}, false},
		"label":            {instance.Filter{Labels: map[string]string{"mode": "duel"}}, true},
		"empty label":      {instance.Filter{Labels: map[string]string{"empty": ""}}, true},
		"no such label":    {instance.Filter{Labels: map[string]string{"none": ""}}, false},
		"other value":      {instance.Filter{Labels: map[string]string{"mode": "race"}}, false},
		"one of two":       {instance.Filter{Labels: map[string]string{"mode": "duel", "none": "x"}}, false},
		"player":           {instance.Filter{PlayerID: "ann"}, true},
		"other player":     {instance.Filter{PlayerID: "bob"}, false},
		"build":            {instance.Filter{Build: "b"}, true},
		"other build":      {instance.Filter{Build: "c"}, false},
		"state, not build": {instance.Filter{States: []instance.State{instance.Running}, Build: "c"}, false},
	} {
		if got := c.filter.Matches(inst); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if c.filter.Empty() != (name == "all") {
			t.Errorf("%s: empty is %v", name, c.filter.Empty())
		}
	}
	if (instance.Filter{Region: "eu"}).Matches(&instance.Instance{}) {
		t.Error("an instance that was never placed is in a region")
	}
}
