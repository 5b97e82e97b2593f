// Statedoc prints docs/instance-states.md, made from the table of transitions; make gen calls it.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

func main() {
	if _, err := os.Stdout.WriteString(page()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// page returns docs/instance-states.md.
func page() string {
	var b strings.Builder
	b.WriteString(`# The states of a game instance

Made from [the code](../services/gameinstance/internal/instance/table.go) by ` + "`make gen`" + `; do not edit. Whatever is not in the tables does not happen: the code refuses
to make another transition, and refused calls change nothing.

` + "```mermaid\nstateDiagram-v2\n")
	drawn := map[[2]instance.State]bool{}
	for _, t := range instance.Table() {
		pair := [2]instance.State{t.From, t.To}
		if drawn[pair] {
			continue
		}
		drawn[pair] = true
		from := t.From.String()
		if t.From == 0 {
			from = "[*]"
		}
		fmt.Fprintf(&b, "    %s --> %s\n", from, t.To)
	}
	b.WriteString("    ENDED --> [*]\n    TERMINATED --> [*]\n```\n\n## Transitions\n\nThe event is the one in the history.\n\n| from | event | to | when |\n|---|---|---|---|\n")
	for _, t := range instance.Table() {
		from := t.From.String()
		if t.From == 0 {
			from = "–"
		}
		fmt.Fprintf(&b, "| %s | `%s` | %s | %s |\n", from, t.Event, t.To, t.Why)
	}
	b.WriteString(`
ENDED and TERMINATED are final: nothing changes any more but who is connected and which server is given back, until the retention is over and the
instance is deleted. Whether a server is connected now is a fact of its own (` + "`link.connected`" + `), not a state.

## Deadlines

| deadline | armed | default | when it passes |
|---|---|---|---|
| allocation | when a server is asked for | 120 s | terminated: ALLOCATION_TIMEOUT |
| link | when the provider has named a server | 60 s | server lost: LINK_TIMEOUT |
| connect players | when the server links | 60 s | server lost: CONNECT_TIMEOUT |
| disconnect | when the linked server's connection is lost | 60 s grace | server lost: SERVER_LOST |
| lifetime | at the creation | off | terminated: LIFETIME_EXCEEDED |
| retention | at the end | 1 h | deleted |

Each can be set for one instance (` + "`timeouts`" + `). "Server lost" terminates the instance with that reason or, with ` + "`on_server_loss: ON_SERVER_LOSS_REPLACE`" + `,
gives it another server, up to 10 in its life. Time in which Berth could not have heard a server does not count.
`)
	return b.String()
}
