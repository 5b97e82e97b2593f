package storm

import (
	"errors"
	"strings"
	"testing"
)

// A ledger that could not fail would prove nothing: each thing that may go wrong is done to one on purpose.
func TestALedgerTellsWhatWentWrong(t *testing.T) {
	good := Stored{State: "STATE_RUNNING", Note: 3, Notes: 3, Told: 3, Added: 2, Removed: 1, Present: 1, Reports: 1}
	stored := func(change func(*Stored)) Stored {
		s := good
		change(&s)
		return s
	}
	hear := func(notes ...int64) func(*Ledger) {
		return func(l *Ledger) {
			for _, n := range notes {
				l.Heard(n)
			}
		}
	}
	for name, c := range map[string]struct {
		server func(*Ledger)
		stored Stored
		want   string // "" for nothing
	}{
		"all is well":                         {hear(1, 2, 3), good, ""},
		"linked anew":                         {func(l *Ledger) { l.Heard(1); l.Relinked(2); l.Heard(3) }, good, ""},
		"linked anew with nothing new":        {func(l *Ledger) { hear(1, 2, 3)(l); l.Relinked(3) }, good, ""},
		"a notification is lost":              {hear(1, 3), good, "notifications lost"},
		"the last notification is lost":       {hear(1, 2), good, "the newest that the server has heard of"},
		"a notification is doubled":           {hear(1, 2, 2, 3), good, "doubled"},
		"notifications are swapped":           {hear(1, 3, 2), good, "lost"},
		"one comes again after start data":    {func(l *Ledger) { l.Relinked(3); l.Heard(3) }, good, "doubled"},
		"start data from before":              {func(l *Ledger) { hear(1, 2, 3)(l); l.Relinked(2) }, good, "older"},
		"a message is lost":                   {func(l *Ledger) { hear(1, 2, 3)(l); l.Said(3); l.Told(3) }, good, "messages lost: 3 came after 1"},
		"the last message is lost":            {func(l *Ledger) { hear(1, 2, 3)(l); l.Said(2) }, good, "the newest that the server has received"},
		"a message is doubled":                {func(l *Ledger) { hear(1, 2, 3)(l); l.Told(1) }, good, "message doubled"},
		"a report comes again":                {func(l *Ledger) { hear(1, 2, 3)(l); l.Received(1, 10) }, good, ""},
		"a report is lost":                    {func(l *Ledger) { hear(1, 2, 3)(l); l.Received(3, 30) }, good, "reports lost: 3 came after 1"},
		"the last report is lost":             {func(l *Ledger) { hear(1, 2, 3)(l); l.Reported(2, nil) }, good, "the newest that the backend has received"},
		"a report is doubled":                 {func(l *Ledger) { hear(1, 2, 3)(l); l.Received(1, 11) }, good, "report doubled"},
		"a report is sent twice":              {hear(1, 2, 3), stored(func(s *Stored) { s.Reports = 2 }), "sent twice"},
		"a note is lost in the store":         {hear(1, 2, 3), stored(func(s *Stored) { s.Note = 2 }), "lost in the store"},
		"a note is written twice":             {hear(1, 2, 3), stored(func(s *Stored) { s.Notes = 4 }), "written twice"},
		"a request is done twice":             {hear(1, 2, 3), stored(func(s *Stored) { s.Added = 3 }), "done twice"},
		"a request is lost":                   {hear(1, 2, 3), stored(func(s *Stored) { s.Removed = 0 }), "requests lost"},
		"a removal is undone":                 {hear(1, 2, 3), stored(func(s *Stored) { s.Present = 2 }), "players in the instance"},
		"a request is refused":                {func(l *Ledger) { hear(1, 2, 3)(l); l.Asked(4, errors.New("PLAYER_EXISTS")) }, good, "PLAYER_EXISTS"},
		"the match is over":                   {hear(1, 2, 3), stored(func(s *Stored) { s.State = "STATE_TERMINATED" }), "STATE_TERMINATED"},
		"its server was lost and is back":     {hear(1, 2, 3), stored(func(s *Stored) { s.Ends = []string{"server_lost"} }), "server_lost"},
		"the link was ended":                  {func(l *Ledger) { hear(1, 2, 3)(l); l.Ended(errors.New("INSTANCE_UNKNOWN")) }, good, "INSTANCE_UNKNOWN"},
		"the server's copy has fallen behind": {hear(1, 2, 3), stored(func(s *Stored) { s.Told = 2 }), "copy"},
	} {
		t.Run(name, func(t *testing.T) {
			l := &Ledger{Name: "s"}
			for n := range int64(3) {
				l.Written(n + 1)
				l.Asked(n+1, nil)
			}
			l.Said(1)
			l.Told(1)
			l.Reported(1, nil)
			l.Received(1, 10)
			c.server(l)
			got := strings.Join(l.Settle(c.stored), "\n")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("it tells %q, want %q", got, c.want)
			}
		})
	}
}
