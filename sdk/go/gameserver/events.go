package gameserver

import (
	"context"
	"iter"

	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// Event is something that happened to the instance and that the game should know: PlayersAdded, PlayersRemoved,
// PlayersUpdated, GameDataUpdated, MessageReceived, Terminated, Superseded, Orphaned or Relinked. What the server did itself comes back as no event.
type Event interface{ event() }

// PlayersAdded says that players were added; expect them.
type PlayersAdded struct {
	// Players are the new players.
	Players []*instancev1.Player
}

// PlayersRemoved says that players were removed; turn them out.
type PlayersRemoved struct {
	// PlayerIDs are their ids.
	PlayerIDs []string
}

// PlayersUpdated says that players' data was replaced or merged.
type PlayersUpdated struct {
	// Players are the players as they are now.
	Players []*instancev1.Player
}

// GameDataUpdated says that the instance's custom data was replaced or merged.
type GameDataUpdated struct {
	// GameData is the data as it is now.
	GameData *typev1.Data
}

// MessageReceived has a message of a backend.
type MessageReceived struct {
	// ID is the message's id; empty for an ephemeral message. A durable message comes once to this process, also when Berth gives it again
	// under the same id; a server that takes the instance over is given those that this one has not taken.
	ID string
	// Topic is what it is about, as the backend says.
	Topic string
	// Data is what is said.
	Data *typev1.Data
}

// Terminated says that the instance is over: stop the game. A process that was started for it is asked to stop soon after.
type Terminated struct {
	// Reason is why.
	Reason instancev1.GameInstance_Reason
	// Message is why, in words.
	Message string
}

// Superseded says that the instance was taken from this server, and has or will get another one: stop the game. The link is over
// with this event. A process that was started for the instance is asked to stop soon after.
type Superseded struct {
	// Message is why, in words.
	Message string
}

// Relinked says that the server has linked anew: Berth had lost the link, or more has changed than it keeps one by one. What happened
// meanwhile came as no event, but is in Instance.
type Relinked struct {
	// Instance is the instance as it is now.
	Instance *instancev1.GameInstance
	// LostWrites says that Berth's store had lost its last writes, as a database does that crashes. Those of this server are made
	// again by the package, before anything newer, and are in Instance already. What backends wrote last may be undone.
	LostWrites bool
}

func (PlayersAdded) event()    {}
func (PlayersRemoved) event()  {}
func (PlayersUpdated) event()  {}
func (GameDataUpdated) event() {}
func (MessageReceived) event() {}
func (Terminated) event()      {}
func (Superseded) event()      {}
func (Relinked) event()        {}

// eventOf returns nil for a kind of event that this version does not know.
func eventOf(e *gameserverv1.InstanceEvent) Event {
	switch e := e.GetEvent().(type) {
	case *gameserverv1.InstanceEvent_PlayersAdded:
		return PlayersAdded{e.PlayersAdded.GetPlayers()}
	case *gameserverv1.InstanceEvent_PlayersRemoved:
		return PlayersRemoved{e.PlayersRemoved.GetPlayerIds()}
	case *gameserverv1.InstanceEvent_PlayersUpdated:
		return PlayersUpdated{e.PlayersUpdated.GetPlayers()}
	case *gameserverv1.InstanceEvent_GameDataUpdated:
		return GameDataUpdated{e.GameDataUpdated.GetGameData()}
	case *gameserverv1.InstanceEvent_Message:
		return MessageReceived{e.Message.GetMessageId(), e.Message.GetTopic(), e.Message.GetData()}
	case *gameserverv1.InstanceEvent_Terminated:
		return Terminated{e.Terminated.GetReason(), e.Terminated.GetMessage()}
	case *gameserverv1.InstanceEvent_Superseded:
		return Superseded{e.Superseded.GetMessage()}
	default:
		return nil
	}
}

// Events returns the channel on which the game gets what happened to its instance, each event once and in order. An event
// counts as dealt with when it was received from the channel: only then is it acknowledged, and Berth keeps it until then,
// through reconnects too.
//
// Read the channel all the time. 1024 events of each instance wait in the server for a game that does not; what comes on top of them
// waits in Berth and is fetched when those have been read. Ephemeral messages stand in the same order, but are acknowledged to nobody, and
// dropped while 256 events wait. Nothing else waits for the game: neither calls nor other instances. Players added are known to VerifyTicket at once, read or not.
//
// The channel is closed after the link is over and the last event was received, and by Close.
func (s *Server) Events() <-chan Event { return s.events }

// All returns the events of Events for a loop, which ends with them or with ctx. An event counts as dealt with when the loop has received it.
func (s *Server) All(ctx context.Context) iter.Seq[Event] {
	return func(yield func(Event) bool) {
		for ctx.Err() == nil {
			select {
			case e, more := <-s.events:
				if !more || !yield(e) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// deliver hands the queued events to the game, one by one.
func (s *Server) deliver(ctx context.Context) {
	defer close(s.events)
	for {
		next, ok := s.inbox.head(ctx)
		if !ok {
			return
		}
		if next.event != nil {
			select {
			case s.events <- next.event:
			case <-ctx.Done():
				return
			}
		}
		s.inbox.took()
	}
}
