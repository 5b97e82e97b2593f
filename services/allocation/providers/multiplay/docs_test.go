package multiplay_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const docs = "../../../../docs/providers/multiplay.md"

// machine is one of Multiplay's, with a server on it.
type machine struct {
	t    *testing.T
	home string
}

// newMachine returns a machine with the page's script, whose game hangs, and with what the script needs of it.
func newMachine(t *testing.T) machine {
	t.Helper()
	if _, err := exec.LookPath("jq"); err != nil {
		t.Skip("the page's script needs jq")
	}
	text, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	_, script, _ := strings.Cut(string(text), "```sh\n")
	script, _, _ = strings.Cut(script, "```")
	m := machine{t, t.TempDir()}
	for name, content := range map[string]string{
		"start":          script,
		"my-game-server": "#!/bin/sh\ntrap '' TERM\necho \"$BERTH_BOOTSTRAP $2\" >started.new && mv started.new started\nwhile :; do /bin/sleep 0.01; done\n",
		"curl":           "#!/bin/sh\nfor url; do :; done\ncat \"payload-${url##*/}\" 2>/dev/null\n",
		"sleep":          "#!/bin/sh\necho >>sleeps\nexec /bin/sleep 0.01\n",
	} {
		if err := os.WriteFile(filepath.Join(m.home, name), []byte(content), 0o700); err != nil { //nolint:gosec // programs
			t.Fatal(err)
		}
	}
	return m
}

// write writes a file, whole.
func (m machine) write(name, content string) {
	m.t.Helper()
	path := filepath.Join(m.home, name)
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		m.t.Fatal(err)
	}
}

// file returns what is in a file; empty: it is not there.
func (m machine) file(name string) string {
	content, _ := os.ReadFile(filepath.Join(m.home, name))
	return string(content)
}

// sleeps waits until the script has slept some times more, and has looked around in between.
func (m machine) sleeps() {
	m.t.Helper()
	enough := len(m.file("sleeps")) + 5
	until(m.t, func() bool { return len(m.file("sleeps")) >= enough })
}

// The page's script becomes the game when the server is allocated, and ends it, though it hangs, when the allocation is over; not when the file is half written.
func TestThePagesScript(t *testing.T) {
	for name, next := range map[string]string{"deallocated": `{"allocatedUUID": "", "port": 9000}`, "allocated anew": `{"allocatedUUID": "b", "port": 9000}`} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.write("server.json", `{"allocatedUUID": "", "port": 9000}`)
			m.write("payload-a", `{"attempt": "1"}`)
			m.write("payload-", `{"attempt": "of nobody"}`)
			cmd := exec.CommandContext(t.Context(), "./start")
			cmd.Dir = m.home
			cmd.Stdout = new(bytes.Buffer) // so that Wait waits for all that the script has started
			cmd.Env = []string{"HOME=" + m.home, "PATH=" + m.home + ":" + os.Getenv("PATH")}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1) // it ends once
			go func() { ended <- cmd.Wait() }()
			m.sleeps()
			m.write("server.json", `{"allocatedUUID": "a", "port": 9000}`)
			until(t, func() bool { return m.file("started") != "" })
			if got := m.file("started"); got != "{\"attempt\": \"1\"} 9000\n" {
				t.Errorf("the game was started with %q", got)
			}
			for _, partial := range []string{"", `{"allocatedUU`} {
				m.write("server.json", partial)
				m.sleeps()
			}
			if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
				t.Fatalf("the game has ended: %v", err)
			}
			m.write("server.json", next)
			var err error
			until(t, func() bool {
				select {
				case err = <-ended:
					return true
				default:
					return false
				}
			})
			if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
				t.Errorf("the game has ended by %v", err)
			}
		})
	}
}
