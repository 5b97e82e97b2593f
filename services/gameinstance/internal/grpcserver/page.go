package grpcserver

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/errs"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

// PageTokens makes and checks the tokens that name a place in a list. They say which list they are of and cannot be made by others, so that nobody
// comes to rely on what is in them. It is safe for concurrent use.
type PageTokens struct{ key []byte }

// NewPageTokens derives the key from the secret that all replicas share: a token is good on each of them, and after a restart.
func NewPageTokens(secret conf.Secret) (PageTokens, error) {
	key, err := hkdf.Key(sha256.New, []byte(secret.Reveal()), nil, "berth page tokens of game-instance v1", sha256.Size)
	return PageTokens{key: key}, err
}

// place is what a token says: creation time in µs and id of the last instance that was looked at.
const place = 8 + len(uuid.UUID{})

// token names the place after the cursor in a list; "" for the end. What names the list is encoded as JSON.
func (t PageTokens) token(list any, next instance.Cursor) (string, error) {
	if next == (instance.Cursor{}) {
		return "", nil
	}
	id, err := uuid.Parse(next.ID)
	if err != nil {
		return "", fmt.Errorf("%q in a list: %w", next.ID, err)
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(next.CreateTime.UnixMicro()))
	b = append(b, id[:]...)
	sum, err := t.sum(list, b)
	return base64.RawURLEncoding.EncodeToString(append(b, sum...)), err
}

// parse returns the place that a token of the list names.
func (t PageTokens) parse(list any, token string) (instance.Cursor, error) {
	if token == "" {
		return instance.Cursor{}, nil
	}
	invalid := errs.New(errs.ValidationFailed, "page_token: not one of this list; take next_page_token as it is, with the same namespace and filter, or leave it empty")
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(raw) != place+sha256.Size {
		return instance.Cursor{}, invalid
	}
	sum, err := t.sum(list, raw[:place])
	if err != nil {
		return instance.Cursor{}, err
	}
	if !hmac.Equal(sum, raw[place:]) {
		return instance.Cursor{}, invalid
	}
	return instance.Cursor{
		CreateTime: time.UnixMicro(int64(binary.BigEndian.Uint64(raw))), ID: uuid.UUID(raw[8:place]).String(),
	}, nil
}

// sum authenticates a place together with the list that it is in.
func (t PageTokens) sum(list any, place []byte) ([]byte, error) {
	name, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(name)
	mac := hmac.New(sha256.New, t.key)
	_, _ = mac.Write(digest[:]) // a hash never fails
	_, _ = mac.Write(place)
	return mac.Sum(nil), nil
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
