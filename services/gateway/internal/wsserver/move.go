package wsserver

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

// Move implements hub.Socket. The connection goes on as before.
func (c *conn) Move(within time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.caller == nil {
		return false
	}
	c.moving = true
	c.send(moveFrame(within))
	return true
}

func moveFrame(within time.Duration) *linkv1.Frame {
	return &linkv1.Frame{Kind: &linkv1.Frame_Move{Move: &linkv1.Move{Deadline: durationpb.New(within)}}}
}

// Replace implements hub.Socket. The server has another connection now. What it asked over this one before is still answered over this one; a server
// that was told to move is about to leave by itself, for which the drain gives it time.
func (c *conn) Replace() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.replaced || c.over {
		return
	}
	c.replaced = true
	if c.moving {
		return
	}
	if c.state.InFlight() == 0 {
		c.closeReplaced()
		return
	}
	c.lingering = time.AfterFunc(c.srv.cfg.CloseTimeout, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.closeReplaced()
	})
}

// leaveReplaced closes a connection that only waited for the answers to its last requests, when it has them. The caller holds mu.
func (c *conn) leaveReplaced() {
	if c.replaced && !c.moving && c.state.InFlight() == 0 {
		c.closeReplaced()
	}
}

// closeReplaced closes a connection whose server has a newer one. The caller holds mu.
func (c *conn) closeReplaced() {
	c.close(linkv1.CloseCode_CLOSE_CODE_REPLACED, "the server has connected again")
}
