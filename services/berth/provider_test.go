package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/berth-dev/berth/sdk/go/provider/providertest"
)

// Whoever wants to run some checks only finds their names where he looks for them.
func TestVerifyListsItsChecks(t *testing.T) {
	said := func(args ...string) string {
		var out bytes.Buffer
		cmd := verifyCommand()
		cmd.SilenceUsage, cmd.SilenceErrors = true, true
		cmd.SetOut(&out)
		cmd.SetArgs(args)
		if err := cmd.Execute(); err != nil {
			return err.Error()
		}
		return out.String()
	}
	for what, out := range map[string]string{
		"--help": said("--help"), "--check": said("--check"), "a wrong one": said("--address", "unix:///nowhere/plugin.sock", "--check", "speed"),
	} {
		for _, name := range providertest.Checks() {
			if !strings.Contains(out, name) {
				t.Errorf("%s does not name %s but says\n%s", what, name, out)
			}
		}
	}
}
