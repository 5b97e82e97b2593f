package gameserver

import (
	"errors"
	"fmt"

	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// Orphaned says that Berth does not know the instance any more, as when its store has come back empty: nobody can end the game there now. The
// link of the instance is over with this event, and it is not linked again. The players are still here: the game may be finished, and its result
// has to go another way than over Berth; see OrphanedError.
type Orphaned struct {
	// Instance is the instance as the server knew it last.
	Instance *instancev1.GameInstance
}

func (Orphaned) event() {}

// OrphanedError is the error of calls when Berth does not know the instance any more; see Orphaned. Server.Err returns it, too. Where it is the
// error of End, the result is in it and nowhere else.
type OrphanedError struct {
	// InstanceID is the instance.
	InstanceID string
	// Result is what End was called with; nil for other calls.
	Result *typev1.Data

	refused *Error
}

// Error implements error.
func (e *OrphanedError) Error() string {
	text := "Berth does not know instance " + e.InstanceID + " any more"
	if e.Result != nil {
		text += "; keep the result yourself"
	}
	return text
}

// Unwrap returns Berth's answer, an *Error.
func (e *OrphanedError) Unwrap() error { return e.refused }

// orphan deals with an instance that Berth does not know. That is no loss where the game has come to its end.
func (h *Host) orphan(s *Server, refused *Error) {
	if s.orphaned {
		return
	}
	s.orphaned = true
	if !s.match.over() {
		s.inbox.finally(Orphaned{Instance: s.match.snapshot()})
	}
	h.end(s, &OrphanedError{InstanceID: s.id, refused: refused})
}

// orphanedBy makes the error of a call say that the instance is orphaned, if that is what it means, and what became of the result.
func (s *Server) orphanedBy(err error, result *typev1.Data) error {
	var orphaned *OrphanedError
	var refused *Error
	switch {
	case errors.As(err, &orphaned):
	case errors.As(err, &refused) && refused.unknown() && !s.match.over():
	default:
		return err
	}
	errors.As(err, &refused)
	return fmt.Errorf("%w: %w", ErrClosed, &OrphanedError{InstanceID: s.id, Result: result, refused: refused})
}
