package dev

import (
	"fmt"
	"path/filepath"
	"strings"
)

// banner says where everything is, and how to start a match.
func (s *Stack) banner(o Options) {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("Berth is up. The store is embedded: when this stops, everything is forgotten.")
	line("")
	line("  API (REST)     %s   OpenAPI at %s/openapi.json", s.APIURL, s.APIURL)
	line("  API (gRPC)     %s", s.API)
	line("  game servers   %s", s.Gateway)
	line("  health         %s/readyz   metrics at /metrics", s.Admin)
	line("  API key        %s   (for this run only)", s.Key)
	line("")
	build := "BUILD"
	if len(s.Builds) > 0 {
		build = s.Builds[0]
	}
	line("Start a match:")
	line("")
	line("  curl -sS %s/v1/namespaces/default/instances \\", s.APIURL)
	line("    -H 'Authorization: Bearer %s' \\", s.Key)
	line("    -d '{\"placement\":{\"build\":\"%s\"},\"players\":[{\"id\":\"ann\"},{\"id\":\"bob\"}]}'", build)
	line("")
	if o.Attach {
		line("Attach mode: the instance then waits for a game server that you start by hand, in a debugger or an editor.")
		line("Its bootstrap lies in %s, where the SDK finds it in this folder and", filepath.Join(s.dir, "bootstrap.json"))
		line("below with no configuration; players are sent to 127.0.0.1:%d. All deadlines are off: nothing is", attachPort)
		line("given up while you stand at a breakpoint. Only the server's tokens have an end: they are valid for %d hours.", int(pairLifetime.Hours()))
		line("")
	} else {
		line("Game servers' output goes to %s", filepath.Join(s.dir, "servers"))
	}
	line("Ctrl-C stops everything.")
	_, _ = fmt.Fprint(o.Out, b.String()) // nobody to tell
}
