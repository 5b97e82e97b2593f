package grpcserver

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/pagetoken"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

// placeLen is the length of what a token says: creation time in µs and id of the last one that was looked at.
const placeLen = 8 + len(uuid.UUID{})

// tokenOf names the place after the cursor in a list; "" for the end.
func tokenOf(tokens pagetoken.Key, list any, next instance.Cursor) (string, error) {
	if next == (instance.Cursor{}) {
		return "", nil
	}
	id, err := uuid.Parse(next.ID)
	if err != nil {
		return "", fmt.Errorf("%q in a list: %w", next.ID, err)
	}
	place := binary.BigEndian.AppendUint64(nil, uint64(next.CreateTime.UnixMicro()))
	return tokens.Token(list, string(append(place, id[:]...)))
}

// placeOf returns the place that a token of the list names.
func placeOf(tokens pagetoken.Key, list any, token string) (instance.Cursor, error) {
	place, err := tokens.Place(list, token)
	if err != nil || place == "" {
		return instance.Cursor{}, err
	}
	if len(place) != placeLen {
		return instance.Cursor{}, fmt.Errorf("a place in a list has %d bytes, not %d", len(place), placeLen)
	}
	b := []byte(place)
	return instance.Cursor{CreateTime: time.UnixMicro(int64(binary.BigEndian.Uint64(b))), ID: uuid.UUID(b[8:]).String()}, nil
}

// listOf names the list of instances that a query asks for. A filter's states are a set; JSON orders its labels.
func listOf(q instance.Query) any {
	states := slices.Clone(q.Filter.States)
	slices.Sort(states)
	return struct { // what is not set is left out, so that replicas one field apart agree on lists that do not use it
		Namespace string
		States    []instance.State  `json:",omitempty"`
		Region    string            `json:",omitempty"`
		Labels    map[string]string `json:",omitempty"`
		PlayerID  string            `json:",omitempty"`
		Build     string            `json:",omitempty"`
	}{q.Namespace, states, q.Filter.Region, q.Filter.Labels, q.Filter.PlayerID, q.Filter.Build}
}

// filterOf returns the filter that a message asks for.
func filterOf(f *instancev1.InstanceFilter) instance.Filter {
	out := instance.Filter{Region: f.GetRegion(), Labels: f.GetLabels(), PlayerID: f.GetPlayerId(), Build: f.GetBuild()}
	for _, s := range f.GetStates() {
		out.States = append(out.States, instance.State(s))
	}
	return out
}
