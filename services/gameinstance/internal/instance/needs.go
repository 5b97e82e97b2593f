package instance

import "slices"

// Needs says what of an instance a command looks at besides its head. The rest is not loaded: what an update costs does not grow with what it does
// not touch.
type Needs struct {
	// Everything includes all of the others.
	Everything bool
	// Players names the players; AllPlayers is all of them.
	Players    []string
	AllPlayers bool
	GameData   bool
	Result     bool
}

// with returns what two commands need together.
func (n Needs) with(o Needs) Needs {
	return Needs{
		Everything: n.Everything || o.Everything, Players: slices.Concat(n.Players, o.Players), AllPlayers: n.AllPlayers || o.AllPlayers,
		GameData: n.GameData || o.GameData, Result: n.Result || o.Result,
	}
}

func (Create) needs() Needs          { return Needs{} }
func (Allocate) needs() Needs        { return Needs{} }
func (CallAnswered) needs() Needs    { return Needs{} }
func (CallFailed) needs() Needs      { return Needs{} }
func (ReportAllocated) needs() Needs { return Needs{} }
func (AttachSession) needs() Needs   { return Needs{} }
func (LoseSession) needs() Needs     { return Needs{} }
func (LoseGateway) needs() Needs     { return Needs{} }
func (Terminate) needs() Needs       { return Needs{} }
func (MessageServer) needs() Needs   { return Needs{} }
func (MessageBackends) needs() Needs { return Needs{} }

// Those that may lead to another server close the instance to all its players until that one opens.
func (ReportFailed) needs() Needs   { return Needs{AllPlayers: true} }
func (ReportExited) needs() Needs   { return Needs{AllPlayers: true} }
func (ReportReleased) needs() Needs { return Needs{AllPlayers: true} }
func (Expire) needs() Needs         { return Needs{AllPlayers: true} }
func (Replace) needs() Needs        { return Needs{AllPlayers: true} }
func (Move) needs() Needs           { return Needs{AllPlayers: true} }
func (Claim) needs() Needs          { return Needs{AllPlayers: true} }
func (Unlink) needs() Needs         { return Needs{AllPlayers: true} }

// A link begins with a snapshot.
func (LinkServer) needs() Needs { return Needs{Everything: true} }

func (c ConnectPlayers) needs() Needs { return Needs{Players: c.IDs, AllPlayers: len(c.IDs) == 0} }
func (c RemovePlayers) needs() Needs  { return Needs{Players: c.IDs} }
func (c UpdateGameData) needs() Needs { return Needs{GameData: c.Data.Merge} }
func (End) needs() Needs              { return Needs{Result: true} }

func (c AddPlayers) needs() Needs {
	n := Needs{Players: make([]string, 0, len(c.Players))}
	for _, p := range c.Players {
		n.Players = append(n.Players, p.ID)
	}
	return n
}

func (c UpdatePlayers) needs() Needs {
	n := Needs{Players: make([]string, 0, len(c.Updates))}
	for _, u := range c.Updates {
		n.Players = append(n.Players, u.ID)
	}
	return n
}
