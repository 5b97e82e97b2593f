package instance

import "time"

// Command is something that somebody wants of an instance. decide says what comes of it.
type Command interface{ decide(t *turn) error }

// Envelope is what every command comes in.
type Envelope struct {
	// ID names the command: a repeat has no further effect. Empty: it has no name, and nobody can repeat it. Ids of calls over a link begin with
	// "link/".
	ID string
	// Digest of the request; the same ID with another digest is refused.
	Digest []byte
	// Actor is who wants it, for the history.
	Actor string
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
	Digest         []byte
	Traceparent    string
}

// Allocate asks for a server for a PENDING instance.
type Allocate struct{}

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
}

// ReportAllocated says that a provider has named a server.
type ReportAllocated struct {
	AttemptID, Provider, Region string
	Endpoints                   []Endpoint
}

// ReportFailed says that no server could be had.
type ReportFailed struct{ AttemptID, Message string }

// ReportExited says that a server's process ended by itself.
type ReportExited struct{ AttemptID, Message string }

// ReportReleased says that an attempt's server is gone.
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
	// LinkEpoch is the newest link that the server knows of, LastOffset the last notification that it dealt with.
	LinkEpoch, LastOffset int64
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
}

// PlayerUpdate changes one player; what is unset stays.
type PlayerUpdate struct {
	ID       string
	Data     Data
	Presence Presence
}

// UpdateGameData replaces the custom data. Server is unset when a backend does.
type UpdateGameData struct {
	Server Caller
	Data   Data
}

// End ends the game with a result.
type End struct {
	Server Caller
	Result Data
}

// Terminate stops the instance.
type Terminate struct{ Message string }

// Caller is a game server that calls. The zero value is none.
type Caller struct {
	ServerID string
	// LinkEpoch is the link that the server believes to have; 0 where it did not say, which only calls that come another way may.
	LinkEpoch int64
	// OverLink says that the call came over the server's socket.
	OverLink bool
}
