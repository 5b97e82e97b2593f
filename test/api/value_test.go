package api

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// value returns what a node of a case stands for. Its own tags make what nobody wants to write out; testdata/README.md lists them.
func value(n *yaml.Node) (any, error) {
	switch n.Tag {
	case "!repeat":
		text, times, err := pair(n)
		return strings.Repeat(fmt.Sprint(text), times), err
	case "!list":
		item, times, err := pair(n)
		out := make([]any, times)
		for i := range out {
			out[i] = numbered(item, i)
		}
		return out, err
	case "!map":
		item, times, err := pair(n)
		out := make(map[string]any, times)
		for i := range times {
			out["k"+strconv.Itoa(i)] = numbered(item, i)
		}
		return out, err
	case "!base64":
		size, err := strconv.Atoi(n.Value)
		return base64.StdEncoding.EncodeToString(make([]byte, size)), err
	case "!nest":
		levels, err := strconv.Atoi(n.Value)
		out := map[string]any{}
		for range levels - 1 {
			out = map[string]any{"n": out}
		}
		return out, err
	case "!escaped":
		return escape.ReplaceAllStringFunc(n.Value, func(s string) string {
			b, _ := strconv.ParseUint(s[2:], 16, 8) // two hexadecimal digits
			return string([]byte{byte(b)})
		}), nil
	case "!present":
		return present{}, nil
	}
	if strings.HasPrefix(n.Tag, "!") && !strings.HasPrefix(n.Tag, "!!") {
		return nil, fmt.Errorf("line %d: there is no tag %s", n.Line, n.Tag)
	}
	switch n.Kind {
	case yaml.AliasNode:
		return value(n.Alias)
	case yaml.MappingNode:
		return object(n)
	case yaml.SequenceNode:
		out := make([]any, len(n.Content))
		for i, item := range n.Content {
			v, err := value(item)
			if err != nil {
				return nil, err
			}
			out[i] = v
		}
		return out, nil
	default:
		var v any
		err := n.Decode(&v)
		return v, err
	}
}

// present is expected of an answer's field that must be there, with whatever value.
type present struct{}

var escape = regexp.MustCompile(`\\x[0-9a-f]{2}`)

// object is value for an object; nothing is an empty one.
func object(n *yaml.Node) (map[string]any, error) {
	out := map[string]any{}
	if n.IsZero() {
		return out, nil
	}
	if n.Kind == yaml.AliasNode {
		return object(n.Alias)
	}
	if n.Kind != yaml.MappingNode || n.Tag != "!!map" {
		v, err := value(n)
		if m, ok := v.(map[string]any); ok || err != nil {
			return m, err
		}
		return nil, fmt.Errorf("line %d: not an object", n.Line)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		v, err := value(n.Content[i+1])
		if err != nil {
			return nil, err
		}
		out[n.Content[i].Value] = v
	}
	return out, nil
}

// pair reads the [what, how often] of a tag.
func pair(n *yaml.Node) (any, int, error) {
	if len(n.Content) != 2 {
		return nil, 0, fmt.Errorf("line %d: %s takes [what, how often]", n.Line, n.Tag)
	}
	what, err := value(n.Content[0])
	if err != nil {
		return nil, 0, err
	}
	times, err := strconv.Atoi(n.Content[1].Value)
	return what, times, err
}

// numbered puts a number in the place of each # in strings.
func numbered(v any, number int) any {
	return mapStrings(v, func(s string) any { return strings.ReplaceAll(s, "#", strconv.Itoa(number)) })
}

// mapStrings returns a copy of a value with its strings changed.
func mapStrings(v any, change func(string) any) any {
	switch v := v.(type) {
	case string:
		return change(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = mapStrings(v[i], change)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, inner := range v {
			out[fmt.Sprint(change(key))] = mapStrings(inner, change)
		}
		return out
	default:
		return v
	}
}

var reference = regexp.MustCompile(`\$\{([A-Za-z0-9_.]+)\}`)

// answers are what the steps of a case were answered, by their names.
type answers map[string]any

// fill puts the answers of steps in the places of the references to them.
func (a answers) fill(v any) (any, error) {
	var failed error
	lookup := func(path string) any {
		var at any = map[string]any(a)
		for _, name := range strings.Split(path, ".") {
			switch inner := at.(type) {
			case map[string]any:
				at = inner[name]
			case []any:
				if i, err := strconv.Atoi(name); err == nil && i < len(inner) {
					at = inner[i]
				}
			}
			if at == nil {
				failed = fmt.Errorf("${%s}: nothing was answered with %q", path, name)
				return ""
			}
		}
		return at
	}
	out := mapStrings(v, func(s string) any {
		if m := reference.FindStringSubmatch(s); m != nil && m[0] == s {
			return lookup(m[1])
		}
		return reference.ReplaceAllStringFunc(s, func(ref string) string { return fmt.Sprint(lookup(ref[2 : len(ref)-1])) })
	})
	return out, failed
}

// mismatch says where an answer does not have what is expected; "" if it does. An expected null is a field that must not be there; a list must be
// as long as expected.
func mismatch(at string, want, got any) string {
	switch want := want.(type) {
	case present:
		if got == nil {
			return at + " is missing"
		}
	case nil:
		if got != nil {
			return fmt.Sprintf("%s is %.200v, and should not be there", at, got)
		}
	case map[string]any:
		inner, ok := got.(map[string]any)
		if !ok {
			return fmt.Sprintf("%s is %.200v, want an object", at, got)
		}
		for key, v := range want {
			if diff := mismatch(at+"."+key, v, inner[key]); diff != "" {
				return diff
			}
		}
	case []any:
		inner, ok := got.([]any)
		if !ok || len(inner) != len(want) {
			return fmt.Sprintf("%s is %.400v, want %d items", at, got, len(want))
		}
		for i := range want {
			if diff := mismatch(fmt.Sprintf("%s[%d]", at, i), want[i], inner[i]); diff != "" {
				return diff
			}
		}
	default:
		if fmt.Sprint(want) != fmt.Sprint(got) {
			return fmt.Sprintf("%s is %.200v, want %.200v", at, got, want)
		}
	}
	return ""
}
