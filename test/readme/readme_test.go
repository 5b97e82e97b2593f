package readme_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/berth-dev/berth/services/allocation"
	"github.com/berth-dev/berth/services/gameinstance"
	"github.com/berth-dev/berth/services/gateway"
	"github.com/berth-dev/berth/services/tokenissuer"
)

// What README shows of the SDK is the body of the SDK's own example, which the compiler checks.
func TestReadmeShowsTheExample(t *testing.T) {
	const path = "sdk/go/gameserver/example_test.go"
	want := bodyOf(t, path, "Example")
	_, after, ok := strings.Cut(page(t, "README.md"), "```go\n")
	if !ok {
		t.Fatal("README.md has no block of Go")
	}
	got, _, _ := strings.Cut(after, "```")
	if got != want {
		t.Errorf("README.md and Example in %s differ.\nREADME.md:\n%s\n%s:\n%s", path, got, path, want)
	}
}

// bodyOf returns the lines between the braces of a function, moved to the left by one tab.
func bodyOf(t *testing.T, path, name string) string {
	t.Helper()
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, filepath.Join(root, path), nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Name.Name != name {
			continue
		}
		text := page(t, path)[files.Position(f.Body.Lbrace).Offset+2 : files.Position(f.Body.Rbrace).Offset]
		var out strings.Builder
		for line := range strings.Lines(text) {
			out.WriteString(strings.TrimPrefix(line, "\t"))
		}
		return out.String()
	}
	t.Fatalf("%s has no function %s", path, name)
	return ""
}

var (
	makeCommand = regexp.MustCompile("make ([a-z]+)")
	makeTarget  = regexp.MustCompile(`(?m)^([a-z]+):`)
)

func TestMakeTargets(t *testing.T) {
	known := make(map[string]bool)
	for _, m := range makeTarget.FindAllStringSubmatch(page(t, "Makefile"), -1) {
		known[m[1]] = true
	}
	for _, path := range []string{"README.md", "CONTRIBUTING.md"} {
		found := 0
		for _, code := range codeOf(page(t, path)) {
			for _, m := range makeCommand.FindAllStringSubmatch(code, -1) {
				found++
				if !known[m[1]] {
					t.Errorf("%s: the Makefile has no target %s", path, m[1])
				}
			}
		}
		if found == 0 {
			t.Errorf("%s names no command", path)
		}
	}
}

var code = regexp.MustCompile("(?s)```.*?```|`[^`\n]+`")

// codeOf returns blocks and spans of code.
func codeOf(text string) []string { return code.FindAllString(text, -1) }

// The table of services has each binary with the ports that it has by default.
func TestReadmePorts(t *testing.T) {
	table := section(t, page(t, "README.md"), "Services")
	for binary, addrs := range map[string][]string{
		"berth-game-instance": {gameinstance.Default().GRPCAddr},
		"berth-token-issuer":  {tokenissuer.Default().GRPCAddr},
		"berth-allocation":    {allocation.Default().GRPCAddr},
		"berth-gateway":       {gateway.Default().EdgeAddr, gateway.Default().APIAddr},
	} {
		row := regexp.MustCompile("(?m)^.*`" + binary + "`.*$").FindString(table)
		for _, addr := range addrs {
			_, port, err := net.SplitHostPort(addr)
			if err != nil || !strings.Contains(row, port) {
				t.Errorf("README.md: the row of %s does not have its port %s: %q", binary, port, row)
			}
		}
	}
}
