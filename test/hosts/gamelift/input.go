package gamelift

import (
	"fmt"
	"regexp"
	"unicode/utf8"

	"github.com/aws/smithy-go/encoding/cbor"
)

// input has the members of a request. The first that is not as the model has it is the request's fault.
type input struct {
	members cbor.Map
	fault   *fault
}

func (in *input) refuse(code, format string, args ...any) {
	if in.fault == nil {
		in.fault = fail(code, format, args...)
	}
}

// text returns a string of at most that many characters; needed says that it has to be there, and then with at least one.
func (in *input) text(name string, needed bool, most int, form *regexp.Regexp) string {
	v, ok := in.members[name]
	if !ok {
		if needed {
			in.refuse("InvalidRequestException", "%s: is required", name)
		}
		return ""
	}
	s, ok := v.(cbor.String)
	n := utf8.RuneCountInString(string(s))
	switch {
	case !ok:
		in.refuse("SerializationException", "%s: is %T and no string", name, v)
	case n > most || n == 0:
		in.refuse("InvalidRequestException", "Value at '%s' failed to satisfy constraint: Member must have length 1 to %d", name, most)
	case form != nil && !form.MatchString(string(s)):
		in.refuse("InvalidRequestException", "Value at '%s' failed to satisfy constraint: Member must satisfy regular expression pattern: %s", name, form)
	}
	return string(s)
}

// whole returns a whole number that is not negative; needed says that it has to be there.
func (in *input) whole(name string, needed bool) int {
	v, ok := in.members[name]
	if !ok {
		if needed {
			in.refuse("InvalidRequestException", "%s: is required", name)
		}
		return 0
	}
	n, ok := v.(cbor.Uint)
	if !ok {
		in.refuse("SerializationException", "%s: is %T and no whole number", name, v)
	}
	return int(n)
}

// texts returns a list of strings.
func (in *input) texts(name string, list cbor.Value) []string {
	values, ok := list.(cbor.List)
	if list != nil && !ok {
		in.refuse("SerializationException", "%s: is %T and no list", name, list)
	}
	var out []string
	for _, v := range values {
		s, ok := v.(cbor.String)
		if !ok {
			in.refuse("SerializationException", "%s: has a %T", name, v)
		}
		out = append(out, string(s))
	}
	return out
}

// Limits of game properties, from the model.
const (
	maxProperties = 16
	maxKey        = 32
	maxValue      = 96
	maxData       = 262144
)

// properties returns GameProperties.
func (in *input) properties() cbor.List {
	v, ok := in.members["GameProperties"]
	if !ok {
		return nil
	}
	list, ok := v.(cbor.List)
	if !ok || len(list) > maxProperties {
		in.refuse("InvalidRequestException", "GameProperties: is no list of up to %d", maxProperties)
	}
	for _, one := range list {
		pair, _ := one.(cbor.Map)
		key, isKey := pair["Key"].(cbor.String)
		value, isValue := pair["Value"].(cbor.String)
		if !isKey || !isValue || len(pair) != 2 || len(key) > maxKey || len(value) > maxValue {
			in.refuse("InvalidRequestException", "GameProperties: %s is no key of up to %d and value of up to %d", fmt.Sprint(one), maxKey, maxValue)
		}
	}
	return list
}
