package kit

import (
	"slices"
	"time"

	"github.com/berth-dev/berth/sdk/go/gameserver/gameservertest"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

// started waits until the program has opened to players.
func (r *sdkRun) started() { r.WaitForState(instancev1.GameInstance_STATE_RUNNING) }

// seen has a backend set the game data to {"value": n}, to which the program answers with {"seen": n}.
func (r *sdkRun) seen(n float64) {
	r.UpdateGameData(object("value", n))
	r.answered(n)
}

func (r *sdkRun) answered(n float64) {
	r.WaitFor("one whose data is {\"seen\": …}", func(in *instancev1.GameInstance) bool {
		return in.GetGameData().GetJson().GetFields()["seen"].GetNumberValue() == n
	})
}

// over has the program end the game and waits until it has exited well.
func (r *sdkRun) over() {
	r.UpdateGameData(object("end", true))
	r.WaitForState(instancev1.GameInstance_STATE_ENDED)
	r.WaitForLeave()
	if err := r.exit(); err != nil {
		fail("after the end of the game the program exited with: %v", err)
	}
}

// exit waits until the program has exited, and returns what with.
func (r *sdkRun) exit() error {
	select {
	case err := <-r.exited:
		return err
	case <-time.After(r.patience):
		fail("the program does not exit")
		return nil
	}
}

// times counts the calls of a method that took effect.
func (r *sdkRun) times(method string) (n int) {
	for _, m := range r.Methods() {
		if m == method {
			n++
		}
	}
	return n
}

// repeated fails unless a method was called twice, under one number, and took effect once.
func (r *sdkRun) repeated(method string) {
	first, again := r.WaitForCall(method), r.WaitForCall(method)
	if !again.Repeated || again.Number != first.Number {
		fail("%s was sent as request %d and again as %d; a request keeps its number", method, first.Number, again.Number)
	}
}

// relinked waits for another Link, which must be a new request, over the connection.
func (r *sdkRun) relinked(connection int) {
	switch c := r.WaitForCall("Link"); {
	case c.Repeated:
		fail("Link was sent again as request %d; it must have a new number", c.Number)
	case c.Connection != connection:
		fail("the instance was linked again over connection %d, not %d", c.Connection, connection)
	}
}

// repaired fails unless a call that was lost was made again before any newer one took effect after it.
func (r *sdkRun) repaired(lost gameservertest.Call) {
	calls := r.Calls()
	i := slices.IndexFunc(calls, func(c gameservertest.Call) bool { return c.Number == lost.Number && c.Repeated })
	if i < 0 {
		fail("request %d was answered, and lost by the store; it was not sent again", lost.Number)
	}
	for _, c := range calls[:i] {
		if c.Number > lost.Number && c.Method != "Link" && c.Reason == "" {
			fail("request %d took effect before the lost request %d was sent again", c.Number, lost.Number)
		}
	}
}

var matches = []sdkCheck{
	{"a match: link, open to players, answer a notification, acknowledge it, end, leave with 1000", 1, func(r *sdkRun) {
		r.started()
		r.seen(1)
		r.WaitForAcks()
		r.over()
	}},
	{"requests: one that was lost on the way is sent again under its number", 1, func(r *sdkRun) {
		r.LoseRequest("ConnectPlayers")
		r.started()
		r.repeated("ConnectPlayers")
		r.over()
	}},
	{"requests: one whose answer was lost is sent again under its number", 1, func(r *sdkRun) {
		r.started()
		r.LoseAnswer("UpdateGameData")
		r.seen(1)
		r.repeated("UpdateGameData")
		r.over()
	}},
	{"requests: the answer SERVICE_UNAVAILABLE is not final", 1, func(r *sdkRun) {
		r.started()
		r.Fail(2, "SERVICE_UNAVAILABLE", 10*time.Millisecond)
		r.seen(1)
		r.repeated("UpdateGameData")
		r.over()
	}},
	{"notifications: one that comes twice has one effect", 1, func(r *sdkRun) {
		r.started()
		r.seen(1)
		r.WaitForAcks()
		r.Redeliver()
		r.seen(2)
		if n := r.times("UpdateGameData"); n != 2 {
			fail("two notifications, one of them twice, had %d effects", n)
		}
		r.over()
	}},
	{"notifications: what happened while the server was away has its effect", 1, func(r *sdkRun) {
		r.started()
		r.RefuseConnections(1, gameservertest.Refusal{})
		r.Disconnect()
		r.seen(1)
		r.over()
	}},
	{"connecting again: with the resume key the instance goes on, without another Link", 1, func(r *sdkRun) {
		r.started()
		r.Disconnect()
		r.WaitForConnection(2)
		r.seen(1)
		if n := r.times("Link"); n != 1 {
			fail("the instance was linked %d times; welcome said that it goes on", n)
		}
		r.over()
	}},
	{"connecting again: an instance that is missing in welcome is linked again", 1, func(r *sdkRun) {
		r.started()
		r.ForgetLink()
		r.Disconnect()
		r.WaitForCall("Link")
		r.WaitForCall("Link")
		r.seen(1)
		r.over()
	}},
	{"connecting again: Retry-After is heeded", 1, func(r *sdkRun) {
		r.started()
		r.RefuseConnections(1, gameservertest.Refusal{RetryAfter: time.Second})
		began := time.Now()
		r.Disconnect()
		r.WaitForConnection(2)
		if took := time.Since(began); took < time.Second {
			fail("the server came back after %s; Retry-After said 1 s", took)
		}
		r.over()
	}},
	{"goodbye: after GOING_AWAY the server comes back", 1, func(r *sdkRun) {
		r.started()
		r.Goodbye(linkv1.CloseCode_CLOSE_CODE_GOING_AWAY)
		r.WaitForConnection(2)
		r.over()
	}},
	{"goodbye: after SUPERSEDED the server stays away, and ends", 1, func(r *sdkRun) {
		r.started()
		r.Goodbye(linkv1.CloseCode_CLOSE_CODE_SUPERSEDED)
		_ = r.exit()
	}},
	{"links: a server whose instance was taken ends, and stays away", 1, func(r *sdkRun) {
		r.started()
		r.Supersede("the check wants it so")
		_ = r.exit()
	}},
	{"heartbeat: a gateway that is silent for two heartbeats and more is left", 1, func(r *sdkRun) {
		r.started()
		r.Silence()
		r.WaitForConnection(2)
		r.over()
	}},
	{"fresh tokens: CREDENTIALS_EXPIRED is answered with RefreshTokens, and the request is sent again", 1, func(r *sdkRun) {
		r.started()
		r.ExpireTokens()
		r.seen(1)
		r.WaitForCall("RefreshTokens")
		r.over()
	}},
	{"frames: one of an unknown kind is ignored", 1, func(r *sdkRun) {
		r.started()
		r.SendUnknown()
		r.seen(1)
		if n := r.Connections(); n != 1 {
			fail("the server left the connection over it")
		}
		r.over()
	}},
	{"snapshots: after resync the instance is linked again, under a new number", 1, func(r *sdkRun) {
		r.started()
		r.WaitForCall("Link")
		r.Resync(func() { r.AddPlayers(&instancev1.Player{Id: "ann"}) })
		r.relinked(1)
		r.WaitForAcks()
		r.seen(1)
		r.over()
	}},
	{"lost writes: after STATE_ROLLED_BACK the instance is linked again, under a new number, over another connection", 1, func(r *sdkRun) {
		r.started()
		r.WaitForCall("Link")
		disk := r.Checkpoint()
		r.Disconnect()
		r.WaitForConnection(2) // over which the link has an epoch that the store will not know
		r.LoseWrites(disk)
		r.seen(1)
		r.relinked(3)
		r.over()
	}},
	{"lost writes: an instance in rolled_back_instance_ids is linked again, under a new number", 1, func(r *sdkRun) {
		r.started()
		r.WaitForCall("Link")
		disk := r.Checkpoint()
		r.Disconnect()
		r.WaitForConnection(2)
		r.LoseWrites(disk)
		r.Disconnect()
		r.relinked(3)
		r.seen(1)
		r.over()
	}},
	{"lost writes: a Link that is answered STATE_ROLLED_BACK is not repeated: there is a new one over another connection, even where welcome says that the instance goes on", 1, func(r *sdkRun) {
		r.started()
		r.WaitForCall("Link")
		r.Fail(1, "STATE_ROLLED_BACK", 0)
		r.Resync(func() { r.AddPlayers(&instancev1.Player{Id: "ann"}) })
		if c := r.WaitForCall("Link"); c.Reason != "STATE_ROLLED_BACK" {
			fail("Link was answered %q", c.Reason)
		}
		r.relinked(2)
		r.seen(1)
		r.over()
	}},
	{"lost writes: what was answered is sent again under its number, before anything newer", 2, func(r *sdkRun) {
		r.started()
		disk := r.Checkpoint()
		r.seen(1)
		lost := r.WaitForCall("UpdateGameData")
		r.LoseWrites(disk)
		r.seen(2)
		r.repaired(lost)
		r.over()
	}},
	{"move: the next connection is opened, and the instance resumed there, before this one is left", 2, func(r *sdkRun) {
		r.started()
		r.Move(0, 30*time.Second)
		r.WaitForConnection(2)
		r.seen(1)
		r.over()
	}},
}
