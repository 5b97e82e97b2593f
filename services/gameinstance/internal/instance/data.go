package instance

import (
	"encoding/json"
	"fmt"

	jsonpatch "github.com/evanphx/json-patch/v5"

	"github.com/berth-dev/berth/pkg/errs"
)

// MaxData is how large one piece of data may be as JSON, or as bytes.
const MaxData = 1 << 20

// Update changes data. The zero value leaves it.
type Update struct {
	Data
	// Merge makes Data a JSON merge patch (RFC 7396); otherwise it takes the place of what is there.
	Merge bool
}

// apply returns the data after the update. field names it in errors.
func (u Update) apply(field string, old Data) (Data, error) {
	switch {
	case !u.Set:
		return old, nil
	case !u.Merge:
		return u.Data, nil
	case old.Set && old.JSON == nil:
		return Data{}, errs.New(errs.ValidationFailed, "%s: what is there is binary, and a merge patch needs JSON; replace it", field)
	}
	merged, err := mergePatch(old.JSON, u.JSON)
	if err != nil {
		return Data{}, fmt.Errorf("merge %s: %w", field, err)
	}
	if len(merged) > MaxData {
		return Data{}, errs.New(errs.LimitExceeded, "%s: would have %d bytes as JSON after the merge, and may have %d", field, len(merged), MaxData)
	}
	d := Data{Set: true, JSON: merged, Visibility: u.Visibility}
	if d.Size, err = StructSize(merged); err != nil {
		return Data{}, fmt.Errorf("size of %s: %w", field, err)
	}
	if u.Visibility == VisibilityDefault {
		d.Visibility = old.Visibility
	}
	return d, nil
}

func mergePatch(old, patch []byte) ([]byte, error) {
	if old == nil {
		old = []byte("{}")
	}
	return jsonpatch.MergePatch(old, patch)
}

// StructSize returns how many bytes a JSON object has as a google.protobuf.Struct within a public message: what counts against the limits, however
// compact the JSON is.
func StructSize(object []byte) (int, error) {
	var v map[string]any
	if err := json.Unmarshal(object, &v); err != nil {
		return 0, err
	}
	return delimited(structSize(v)), nil
}

func structSize(object map[string]any) int {
	sum := 0
	for name, v := range object {
		sum += delimited(delimited(len(name)) + delimited(valueSize(v)))
	}
	return sum
}

func valueSize(v any) int {
	switch v := v.(type) {
	case float64:
		return 9
	case string:
		return delimited(len(v))
	case map[string]any:
		return delimited(structSize(v))
	case []any:
		sum := 0
		for _, e := range v {
			sum += delimited(valueSize(e))
		}
		return delimited(sum)
	default: // null, true, false
		return 2
	}
}

// delimited is the size of a field of n bytes with its tag and its length.
func delimited(n int) int {
	size := 2 + n
	for v := n; v >= 0x80; v >>= 7 {
		size++
	}
	return size
}
