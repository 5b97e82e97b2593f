package instance

import (
	"fmt"

	"github.com/berth-dev/berth/pkg/errs"
)

// Transition is a way from one state to another. The history tells each by its event.
type Transition struct {
	From  State // 0: there was no instance
	Event string
	To    State
	// Why says what brings it about.
	Why string
}

// Table has every transition that there is: Decide refuses to make another one. docs/instance-states.md is made from it.
func Table() []Transition {
	table := []Transition{
		{0, "created", Pending, "CreateGameInstance"},
		{Pending, "allocating", Allocating, "right after the creation, unless skip_allocation; AllocateGameServer; after a server was replaced, lost, has unlinked or could not be had"},
		{Allocating, "allocated", Allocated, "the provider has named a server"},
		{Allocating, "linked", Linked, "a server that was faster than its provider's answer links"},
		{Allocated, "linked", Linked, "the server links"},
		{Linked, "running", Running, "the server opens to players (ConnectPlayers)"},
		{Linked, "unlinked", Pending, "the server gives the instance up (UnlinkGameInstance)"},
		{Running, "unlinked", Pending, "the server gives the instance up (UnlinkGameInstance)"},
		{Linked, "ended", Ended, "the server ends the game (EndGameInstance)"},
		{Running, "ended", Ended, "the server ends the game (EndGameInstance)"},
	}
	for _, from := range []State{Allocating, Allocated, Linked, Running} {
		table = append(table,
			Transition{from, "server_replaced", Pending, "ReplaceGameServer; its provider is drained, and its time is over"},
			Transition{from, "server_lost", Pending, "the server has exited, was released, did not link or open in time, was away for longer than the grace, or two had its claim code before it linked; with on_server_loss REPLACE"},
		)
	}
	for _, from := range []State{Allocating, Allocated} {
		table = append(table, Transition{from, "attempt_failed", Pending, "the provider does not answer for long, or has refused the server after all; another attempt is made"})
	}
	for _, from := range []State{Pending, Allocating, Allocated, Linked, Running} {
		table = append(table, Transition{from, "terminated", Terminated, "TerminateGameInstance; the lifetime is over; no server can be had; the server is lost"})
	}
	return table
}

type step struct {
	from  State
	event string
	to    State
}

// steps is Table for looking up; it is never written after its making.
var steps = func() map[step]bool {
	m := map[step]bool{}
	for _, t := range Table() {
		m[step{t.From, t.Event, t.To}] = true
	}
	return m
}()

// legal refuses a change that goes a way which the table does not have: a defect of a decision must not be stored.
func (c *Change) legal() error {
	for _, h := range c.History {
		if h.From != h.To && !steps[step{h.From, h.Event, h.To}] {
			return errs.Wrap(fmt.Errorf("%s from %s to %s is not in the table", h.Event, h.From, h.To), errs.Internal, "the instance would take a way that does not exist; nothing was changed")
		}
	}
	return nil
}
