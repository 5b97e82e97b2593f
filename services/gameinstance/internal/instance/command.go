package instance

import "time"

// Command is something that somebody wants of an instance. decide says what comes of it, looking at no more than needs names.
type Command interface {
	decide(t *turn) error
	needs() Needs
}

// CommandID names a command, so that a repeat has no further effect. The zero value is none: nobody can repeat it.
type CommandID struct {
	// Name is a backend's: the caller and its request id. It is kept for 10 minutes.
	Name string
	// Session and Number are a game server's, over its link: the requests of one session are numbered. They are kept without a clock, as long as
	// a server may repeat them.
	Session string
	Number  int64
}

// Envelope is what every command comes in.
type Envelope struct {
	// ID names the command.
	ID CommandID
	// Digest of the request; the same ID with another digest is refused.
	Digest []byte
	// Actor is who wants it, for the history.
	Actor string
	// Queued is called when the command has its place among those for its instance, which are decided in that order; it may be nil.
	Queued func()
	// Whole asks for the whole instance in return, not just what the command needs.
	Whole bool
}

// Create makes the instance.
type Create struct {
	Namespace, ID  string
	Players        []Player
	GameData       Data
	Settings       []byte
	Placement      Placement
	Labels         map[string]string
	Timeouts       Timeouts
	SkipAllocation bool
	// ServerID is the registered server that gets the instance; empty: a provider is asked for one.
	ServerID string
	// Link links that server at once: it makes the instance itself.
	Link        *LinkServer
	OnLoss      OnLoss
	Digest      []byte
	Traceparent string
}

// Allocate asks for a server for a PENDING instance: a registered one, or any.
type Allocate struct{ ServerID string }

// CallAnswered says that allocation has answered a call of the outbox.
type CallAnswered struct {
	Kind      CallKind
	AttemptID string
}

// CallFailed says that a call of the outbox got no answer; it is tried again after Retry.
type CallFailed struct {
	Kind      CallKind
	AttemptID string
	Retry     time.Duration
	// Message is why no server can be asked for, should that stay so; empty: it is nobody's business.
	Message string
}

// ReportAllocated says that a provider has named a server, or that a registered one has room.
type ReportAllocated struct {
	AttemptID, Provider, Region string
	Endpoints                   []Endpoint
	// ServerID is the server that the attempt has its room on, if it is one of a pool; empty: the attempt's own, which is started for it.
	ServerID string
}

// ReportFailed says that no server could be had.
type ReportFailed struct {
	AttemptID, Message string
	// Elsewhere says that another attempt may have one: this one failed where it was, which is Provider and Region, for the reason Failure.
	Elsewhere                 bool
	Provider, Region, Failure string
}

// ReportExited says that a server's process ended by itself, or, if Missing, that its provider knows it no longer.
type ReportExited struct {
	AttemptID, Message string
	Missing            bool
}

// ReportReleased says that an attempt's server is gone, or has its room back.
type ReportReleased struct{ AttemptID string }

// LinkServer binds a server to the instance.
type LinkServer struct {
	Server        Caller
	SessionEpoch  int64
	GatewayID     string
	Endpoints     []Endpoint
	ServerVersion string
}

// AttachSession moves a link to the newer socket of a server that has proved to be the same one.
type AttachSession struct {
	ServerID     string
	SessionEpoch int64
	GatewayID    string
	// LinkEpoch is the newest link that the server knows of, LastOffset the last notification that it dealt with, Revision the newest that it
	// was told of.
	LinkEpoch, LastOffset, Revision int64
	// Session and LastRequest are those of Caller.
	Session     string
	LastRequest int64
}

// LoseSession says that a server's socket is gone.
type LoseSession struct {
	ServerID     string
	SessionEpoch int64
}

// LoseGateway says that a gateway is gone, with all its sockets.
type LoseGateway struct{ GatewayID string }

// ConnectPlayers opens the server to players; no ids: to everybody.
type ConnectPlayers struct {
	Server Caller
	IDs    []string
}

// AddPlayers adds players. Server is unset when a backend does.
type AddPlayers struct {
	Server  Caller
	Players []Player
}

// RemovePlayers removes players. Server is unset when a backend does.
type RemovePlayers struct {
	Server Caller
	IDs    []string
}

// UpdatePlayers changes players. Server is unset when a backend does.
type UpdatePlayers struct {
	Server  Caller
	Updates []PlayerUpdate
	// Expected is the revision that the instance must have; 0: any.
	Expected int64
}

// PlayerUpdate changes one player; what is unset stays.
type PlayerUpdate struct {
	ID       string
	Data     Update
	Presence Presence
}

// UpdateGameData changes the custom data. Server is unset when a backend does.
type UpdateGameData struct {
	Server Caller
	Data   Update
	// Expected is the revision that the instance must have; 0: any.
	Expected int64
}

// End ends the game with a result.
type End struct {
	Server Caller
	Result Data
}

// Terminate stops the instance.
type Terminate struct{ Message string }

// Replace takes the instance from its server and asks for another one: a registered one, or any.
type Replace struct{ Message, ServerID string }

// Move replaces the server of an attempt, unless the attempt was given up already.
type Move struct{ AttemptID, Message string }

// Unlink gives the instance up, by its server.
type Unlink struct {
	Server  Caller
	Message string
}

// Caller is a game server that calls. The zero value is none.
type Caller struct {
	ServerID string
	// LinkEpoch is the link that the server believes to have; 0 where it did not say, which only calls that come another way may.
	LinkEpoch int64
	// OverLink says that the call came over the server's socket.
	OverLink bool
	// Session and LastRequest name the highest request that the server knows to be committed; 0: none.
	Session     string
	LastRequest int64
}
