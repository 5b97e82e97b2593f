package readme_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Every key and channel that the code builds stands in docs/redis.md.
func TestRedisKeys(t *testing.T) {
	var names []string
	for _, m := range regexp.MustCompile("`(berth:[^`]+)`").FindAllStringSubmatch(page(t, "docs/redis.md"), -1) {
		names = append(names, m[1])
	}
	total := 0
	for _, path := range []string{
		"pkg/redisx/redisx.go",
		"pkg/audit/stream.go",
		"services/gameinstance/internal/redisstore/keys.go",
		"services/tokenissuer/internal/redisstore/keys.go",
		"services/allocation/internal/redisstore/keys.go",
		"services/gateway/internal/broker/broker.go",
	} {
		for _, key := range keysIn(t, path) {
			total++
			if !anyMatches(key, names) {
				t.Errorf("docs/redis.md: %s builds %s, which is not there", path, key)
			}
		}
	}
	if total < 20 {
		t.Errorf("only %d keys found: does this test still understand the code?", total)
	}
}

// hole stands for what is filled in at run time.
const hole = "*"

func anyMatches(key string, names []string) bool {
	pattern := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(key), regexp.QuoteMeta(hole), "[A-Z]+") + "$")
	for _, n := range names {
		if pattern.MatchString(n) {
			return true
		}
	}
	return false
}

// keysIn returns the keys that a file builds, with holes.
func keysIn(t *testing.T, path string) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, path), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == "Key" {
			continue // redisx.Key itself, which others call
		}
		ast.Inspect(d, func(n ast.Node) bool {
			e, ok := n.(ast.Expr)
			if !ok {
				return true
			}
			key := text(e)
			if call, ok := e.(*ast.CallExpr); ok && len(call.Args) == 2 && strings.HasSuffix(text(call.Fun), ".Key") {
				key = "berth:{" + hole + "}:" + text(call.Args[1])
			}
			if strings.HasPrefix(key, "berth:") {
				keys = append(keys, key)
				return false
			}
			return true
		})
	}
	return keys
}

// text returns the text that an expression makes, with holes for what is not known before it runs.
func text(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if s, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
			return s
		}
	case *ast.BinaryExpr:
		return text(e.X) + text(e.Y)
	case *ast.SelectorExpr:
		return hole + "." + e.Sel.Name
	case *ast.CallExpr:
		if strings.HasSuffix(text(e.Fun), ".Sprintf") && len(e.Args) > 0 {
			return regexp.MustCompile(`%0?\d*[a-z]`).ReplaceAllString(text(e.Args[0]), hole)
		}
	}
	return hole
}
