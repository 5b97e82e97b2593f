package readme_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "github.com/berth-dev/berth/pkg/gen/berth/attempt/v1" // all services register themselves
	_ "github.com/berth-dev/berth/pkg/gen/berth/pool/v1"
	_ "github.com/berth-dev/berth/pkg/gen/berth/session/v1"
	_ "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
	_ "github.com/berth-dev/berth/sdk/go/gen/berth/audit/v1"
	_ "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	_ "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	_ "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	_ "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
)

// Somebody who has never seen the project finds the handler of any rpc through one table.
func TestHandlersAreWhereContributingSays(t *testing.T) {
	files := make(map[string]string)
	for _, row := range rows(section(t, page(t, "CONTRIBUTING.md"), "Where is it?")) {
		files[row[0]] = row[1]
	}
	services := 0
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			if !strings.HasPrefix(string(s.FullName()), "berth.") {
				continue
			}
			services++
			checkService(t, s, files[string(s.FullName())])
		}
		return true
	})
	if services != 11 {
		t.Errorf("%d services are registered; is one missing among this test's imports?", services)
	}
}

func checkService(t *testing.T, s protoreflect.ServiceDescriptor, path string) {
	if path == "" {
		t.Errorf("CONTRIBUTING.md: the table has no row for %s", s.FullName())
		return
	}
	text := page(t, path)
	for i := range s.Methods().Len() {
		name := string(s.Methods().Get(i).Name())
		method := regexp.MustCompile(`(?m)^func \([^)]*\) ` + name + `\(|^\t` + name + `\(context\.Context`) // a handler, or a method of an interface
		if !method.MatchString(text) {
			t.Errorf("CONTRIBUTING.md says that %s is in %s, which does not have it", s.Methods().Get(i).FullName(), path)
		}
	}
}

// The documents name folders and files of the tree, in code; each must be there.
func TestPathsExist(t *testing.T) {
	path := regexp.MustCompile("`((?:services|pkg|sdk|proto|tools|test|examples|deploy|docs)/[a-zA-Z0-9_./-]*)`")
	for _, doc := range pages(t) {
		for _, m := range path.FindAllStringSubmatch(page(t, doc), -1) {
			if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
				t.Errorf("%s: %s does not exist", doc, m[1])
			}
		}
	}
}

// No document names a place on somebody's machine.
func TestNoMachinePaths(t *testing.T) {
	machine := regexp.MustCompile(`(?:^|[\s("'` + "`" + `])/(?:home|root|tmp|Users)/`)
	check := func(path string) {
		if m := machine.FindString(page(t, path)); m != "" {
			t.Errorf("%s: names a path of a machine: %q", path, m)
		}
	}
	for _, path := range pages(t) {
		check(path)
	}
	check("docker-compose.yml")
	err := filepath.WalkDir(filepath.Join(root, "deploy"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		check(rel)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
