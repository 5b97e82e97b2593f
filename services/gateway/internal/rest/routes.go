package rest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"

	"github.com/berth-dev/berth/pkg/errs"
)

// routes are the documented calls, by path and method, each with the names of its query parameters. A path has {} for each variable.
type routes map[string]map[string][]string

// readRoutes takes the calls out of the OpenAPI document, which is made of the same protos as the handlers.
func readRoutes(document []byte) (routes, error) {
	var doc struct {
		Paths map[string]map[string]struct {
			Parameters []struct{ Name, In string }
		}
	}
	if err := json.Unmarshal(document, &doc); err != nil {
		return nil, fmt.Errorf("OpenAPI document: %w", err)
	}
	all := make(routes, len(doc.Paths))
	for path, calls := range doc.Paths {
		methods := make(map[string][]string, len(calls))
		for method, call := range calls {
			names := []string{}
			for _, p := range call.Parameters {
				if p.In == "query" {
					names = append(names, p.Name)
				}
			}
			methods[strings.ToUpper(method)] = names
		}
		all[nameless(path)] = methods
	}
	return all, nil
}

var variable = regexp.MustCompile(`\{[^}]*\}`)

// nameless returns a path whose variables have lost their names, which the document and grpc-gateway write differently.
func nameless(path string) string { return variable.ReplaceAllLiteralString(path, "{}") }

// strict refuses what grpc-gateway would let pass: the verb of another method as the end of an id, and query parameters that nobody reads.
func (all routes) strict(next runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, params map[string]string) {
		pattern, _ := runtime.HTTPPattern(r.Context())
		path := nameless(pattern.String())
		if verb := verbOf(r.URL); pattern.Verb() == "" && verb != "" && all[path+":"+verb] != nil {
			wrongMethod(w, r)
			return
		}
		if err := errors.Join(checkText(params), checkQuery(r.URL, all[path][r.Method])); err != nil {
			fail(w, err)
			return
		}
		next(w, r, params)
	}
}

// verbOf returns what follows the last colon of a path. A colon that belongs to an id can be escaped.
func verbOf(u *url.URL) string {
	path := u.EscapedPath()
	return path[strings.LastIndex(path, ":")+1:]
}

// checkText returns an error that names a variable of the path whose text no message can carry.
func checkText(params map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(params)) {
		if !utf8.ValidString(params[name]) {
			return errs.New(errs.Malformed, "%s: not UTF-8", name)
		}
	}
	return nil
}

// checkQuery returns an error that names a query parameter that is not among those of the call.
func checkQuery(u *url.URL, known []string) error {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return errs.Wrap(err, errs.Malformed, "query: not well-formed")
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if !utf8.ValidString(name + strings.Join(query[name], "")) {
			return errs.New(errs.Malformed, "%q: not UTF-8", name)
		}
		if !slices.Contains(known, documented(name)) {
			takes := "takes none"
			if len(known) > 0 {
				takes = "takes " + strings.Join(known, ", ")
			}
			return errs.New(errs.ValidationFailed, "%s: there is no such query parameter; this call %s", name, takes)
		}
	}
	return nil
}

var mapEntry = regexp.MustCompile(`\[[^\]]*\]$`)

// documented returns the name that a parameter has in the document, which may be given in the proto's spelling, and as an entry of a map.
func documented(name string) string {
	entry := ""
	if at := mapEntry.FindStringIndex(name); at != nil {
		name, entry = name[:at[0]], "[string]"
	}
	var b strings.Builder
	upper := false
	for i := range len(name) {
		c := name[i]
		switch {
		case c == '_':
			upper = true
			continue
		case upper && 'a' <= c && c <= 'z':
			c -= 'a' - 'A'
		}
		upper = false
		b.WriteByte(c)
	}
	return b.String() + entry
}
