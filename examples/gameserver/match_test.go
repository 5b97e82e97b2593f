package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/token"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// fakeBerth has the instance in memory. A player's ticket is "ticket-" and the id, good once.
type fakeBerth struct {
	mu       sync.Mutex
	instance *instancev1.GameInstance
	used     map[string]bool
	presence map[string][]instancev1.Player_Presence
	opened   []string
	result   *typev1.Data
	endErr   error
	err      error // why the link is over

	events chan gameserver.Event
	done   chan struct{}
}

func newFakeBerth(players ...string) *fakeBerth {
	f := &fakeBerth{
		instance: new(instancev1.GameInstance), used: make(map[string]bool), presence: make(map[string][]instancev1.Player_Presence),
		events: make(chan gameserver.Event), done: make(chan struct{}),
	}
	f.invite(players...)
	return f
}

func (f *fakeBerth) invite(ids ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.instance = &instancev1.GameInstance{Players: f.instance.GetPlayers(), GameData: f.instance.GetGameData()}
	for _, id := range ids {
		f.instance.Players = append(f.instance.Players, &instancev1.Player{Id: id})
	}
}

func (f *fakeBerth) Instance() *instancev1.GameInstance {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &instancev1.GameInstance{Players: f.instance.GetPlayers(), GameData: f.instance.GetGameData(), State: f.instance.GetState()}
}

func (f *fakeBerth) VerifyTicket(_ context.Context, ticket string) (*instancev1.Player, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id, genuine := strings.CutPrefix(ticket, "ticket-")
	if !genuine {
		return nil, &token.Error{Reason: token.Invalid, Message: "forged"}
	}
	for _, p := range f.instance.GetPlayers() {
		if p.GetId() == id && f.used[ticket] {
			return nil, gameserver.ErrTicketUsed
		} else if p.GetId() == id {
			f.used[ticket] = true
			return p, nil
		}
	}
	return nil, gameserver.ErrPlayerUnknown
}

func (f *fakeBerth) ConnectPlayers(_ context.Context, ids ...string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened = append(f.opened, ids...)
	return nil
}

func (f *fakeBerth) UpdatePlayers(_ context.Context, updates ...*instancev1.PlayerUpdate) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range updates {
		if u.GetPresence() != instancev1.Player_PRESENCE_UNSPECIFIED {
			f.presence[u.GetPlayerId()] = append(f.presence[u.GetPlayerId()], u.GetPresence())
		}
	}
	return nil
}

func (f *fakeBerth) UpdateGameData(_ context.Context, data *typev1.Data) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.instance = &instancev1.GameInstance{Players: f.instance.GetPlayers(), GameData: data}
	return nil
}

func (f *fakeBerth) End(_ context.Context, result *typev1.Data) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.result = result
	return f.endErr
}

func (f *fakeBerth) Events() <-chan gameserver.Event { return f.events }
func (f *fakeBerth) Done() <-chan struct{}           { return f.done }
func (f *fakeBerth) Err() error                      { return cmp.Or(f.err, errors.New("superseded")) }

func (f *fakeBerth) tell(t *testing.T, e gameserver.Event) {
	t.Helper()
	select {
	case f.events <- e:
	case <-time.After(patience):
		t.Fatalf("the match does not take %T", e)
	}
}

// table is a match that runs.
type table struct {
	t       *testing.T
	berth   *fakeBerth
	address string
	stop    context.CancelFunc
	end     chan error
}

func start(t *testing.T, f *fakeBerth, r rules) *table {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	tab := &table{t, f, listener.Addr().String(), stop, make(chan error, 1)}
	m := newMatch(f, r, slog.New(slog.DiscardHandler))
	go func() { tab.end <- m.play(ctx, listener) }()
	t.Cleanup(stop)
	return tab
}

func (tab *table) wantEnd() error {
	tab.t.Helper()
	select {
	case err := <-tab.end:
		return err
	case <-time.After(patience):
		tab.t.Fatal("the match does not end")
	}
	return nil
}

type client struct {
	t     *testing.T
	conn  net.Conn
	lines *bufio.Scanner
}

func (tab *table) dial(first string) *client {
	tab.t.Helper()
	conn, err := new(net.Dialer).DialContext(tab.t.Context(), "tcp", tab.address)
	if err != nil {
		tab.t.Fatal(err)
	}
	tab.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		tab.t.Fatal(err)
	}
	c := &client{tab.t, conn, bufio.NewScanner(conn)}
	if first != "" {
		c.say(first)
	}
	return c
}

func (tab *table) join(id string) *client {
	tab.t.Helper()
	c := tab.dial("JOIN ticket-" + id)
	c.want("WELCOME " + id)
	return c
}

func (c *client) say(line string) {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.conn, line); err != nil {
		c.t.Fatal(err)
	}
}

// want reads until a line comes.
func (c *client) want(line string) {
	c.t.Helper()
	var got []string
	for c.lines.Scan() {
		if c.lines.Text() == line {
			return
		}
		got = append(got, c.lines.Text())
	}
	c.t.Fatalf("waited in vain for %q; got %q and then %v", line, got, c.lines.Err())
}

func (c *client) wantClosed() {
	c.t.Helper()
	for c.lines.Scan() {
	}
	if err := c.lines.Err(); err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatal("the connection stays open")
	}
}

func quick(rounds int) rules   { return rules{rounds: rounds, roundTime: 20 * time.Millisecond} }
func patient(rounds int) rules { return rules{rounds: rounds, roundTime: time.Hour} }

func TestMatch(t *testing.T) {
	f := newFakeBerth("ann", "bob")
	data, err := gameserver.JSON(map[string]any{"map": "dust"})
	if err != nil {
		t.Fatal(err)
	}
	f.instance.GameData = data
	tab := start(t, f, patient(2))

	for first, want := range map[string]string{
		"JOIN forged":                       "REFUSED ticket-invalid",
		"JOIN ticket-eve":                   "REFUSED not-invited",
		"HELLO":                             "REFUSED join-missing",
		strings.Repeat("x", maxLine+1):      "REFUSED join-missing",
		"JOIN " + strings.Repeat("x", 9000): "REFUSED ticket-invalid",
	} {
		c := tab.dial(first)
		c.want(want)
		c.wantClosed()
	}

	ann := tab.join("ann")
	ann.say("SCORE 1")
	ann.want("ERROR the match has not begun")
	tab.dial("JOIN ticket-ann").want("REFUSED ticket-used")
	bob := tab.join("bob")
	ann.want("ROUND 1")
	bob.want("ROUND 1")
	bob.say("SAY hello all")
	ann.want("SAID bob hello all")
	for _, bad := range []string{"SCORE many", "SCORE -1", "SCORE 1001"} {
		ann.say(bad)
		ann.want("ERROR points are a number from 0 to 1000")
	}
	ann.say("END")
	ann.want("ERROR the match ends by itself")
	ann.say("SCORE 10")
	ann.say("SCORE 10")
	ann.want("ERROR you have scored in this round")
	bob.say("SCORE 30")
	ann.want("ROUND 2")
	bob.say("QUIT")
	bob.want("BYE")
	bob.wantClosed()
	ann.want("LEFT bob")
	ann.say("SCORE 15")
	ann.want("OVER bob")
	ann.wantClosed()
	if err := tab.wantEnd(); err != nil {
		t.Fatal(err)
	}

	var got result
	if err := gameserver.DecodeJSON(f.result, &got); err != nil {
		t.Fatal(err)
	}
	if got.Winner != "bob" || got.Scores["ann"] != 25 || got.Scores["bob"] != 30 || got.Rounds != 2 {
		t.Errorf("the result is %+v", got)
	}
	if p := f.presence["bob"]; len(p) != 2 || p[0] != instancev1.Player_PRESENCE_PRESENT || p[1] != instancev1.Player_PRESENCE_ABSENT {
		t.Errorf("bob's presence was reported as %v", p)
	}
	if p := f.presence["ann"]; len(p) != 1 || p[0] != instancev1.Player_PRESENCE_PRESENT {
		t.Errorf("ann's presence was reported as %v", p)
	}
	var game struct {
		Map    string
		Round  int
		Scores map[string]int
	}
	if err := gameserver.DecodeJSON(f.instance.GetGameData(), &game); err != nil || game.Map != "dust" || game.Round != 2 || game.Scores["ann"] != 25 {
		t.Errorf("the game data is %+v, %v", game, err)
	}
}

// Berth has lost the match, but the players are here: it is played to its end.
func TestAnOrphanedMatchIsPlayedOn(t *testing.T) {
	f := newFakeBerth("ann")
	f.err = &gameserver.OrphanedError{InstanceID: "lost"}
	f.endErr = f.err
	tab := start(t, f, patient(1))
	ann := tab.join("ann")
	ann.want("ROUND 1")
	f.tell(t, gameserver.Orphaned{})
	close(f.events)
	close(f.done)
	ann.say("SAY on we go")
	ann.want("SAID ann on we go")
	ann.say("SCORE 1")
	ann.want("OVER ann")
	if err := tab.wantEnd(); err != nil {
		t.Error(err)
	}
}

func TestBackendsAnnounce(t *testing.T) {
	f := newFakeBerth("ann", "bob")
	tab := start(t, f, patient(1))
	ann := tab.join("ann")
	text, err := gameserver.JSON(map[string]any{"text": "ten\nminutes"})
	if err != nil {
		t.Fatal(err)
	}
	f.tell(t, gameserver.MessageReceived{Topic: "what is this", Data: text})
	f.tell(t, gameserver.MessageReceived{Topic: "announce", Data: text})
	ann.want("ANNOUNCED ten minutes")
}

func TestRoundEndsByItself(t *testing.T) {
	tab := start(t, newFakeBerth("ann"), quick(2))
	ann := tab.join("ann") // and says nothing
	ann.want("ROUND 2")
	ann.want("OVER nobody")
	if err := tab.wantEnd(); err != nil {
		t.Error(err)
	}
}

func TestBackendAddsAndRemovesPlayers(t *testing.T) {
	f := newFakeBerth("ann", "bob")
	tab := start(t, f, patient(1))
	ann := tab.join("ann")
	f.invite("cid")
	f.tell(t, gameserver.PlayersAdded{Players: []*instancev1.Player{{Id: "cid"}}})
	cid := tab.join("cid")
	cid.want("JOINED cid")

	f.mu.Lock()
	f.instance = &instancev1.GameInstance{Players: []*instancev1.Player{{Id: "ann"}}}
	f.mu.Unlock()
	f.tell(t, gameserver.PlayersRemoved{PlayerIDs: []string{"cid", "bob"}})
	cid.want("REMOVED")
	cid.wantClosed()
	ann.want("LEFT cid")
	ann.want("ROUND 1") // bob is not waited for any more
	ann.say("SCORE 1")
	ann.want("OVER ann")
	if err := tab.wantEnd(); err != nil {
		t.Error(err)
	}
	if len(f.opened) != 1 || f.opened[0] != "cid" {
		t.Errorf("opened to %v, want cid", f.opened)
	}
}

func TestRelinkedMatchFollowsTheNewRoster(t *testing.T) {
	f := newFakeBerth("ann", "bob", "cid")
	tab := start(t, f, patient(1))
	ann, bob := tab.join("ann"), tab.join("bob")
	now := &instancev1.GameInstance{Players: []*instancev1.Player{{Id: "ann", Connectable: true}, {Id: "dan"}}}
	f.tell(t, gameserver.Relinked{Instance: now})
	bob.want("REMOVED")
	ann.want("LEFT bob")
	tab.stop()
	if err := tab.wantEnd(); err != nil {
		t.Error(err)
	}
}

func TestMatchHolds(t *testing.T) {
	r := quick(1)
	r.hold = true
	t.Run("until a player says END", func(t *testing.T) {
		tab := start(t, newFakeBerth("ann"), r)
		ann := tab.join("ann")
		ann.want("ROUND 3")
		ann.say("END")
		ann.want("OVER nobody")
		if err := tab.wantEnd(); err != nil {
			t.Error(err)
		}
	})
	t.Run("until the game data says so", func(t *testing.T) {
		f := newFakeBerth("ann")
		tab := start(t, f, r)
		ann := tab.join("ann")
		ann.want("ROUND 3")
		data, err := gameserver.JSON(map[string]any{"end": true})
		if err != nil {
			t.Fatal(err)
		}
		f.tell(t, gameserver.GameDataUpdated{GameData: data})
		ann.want("OVER nobody")
		if err := tab.wantEnd(); err != nil {
			t.Error(err)
		}
	})
}

func TestMatchStops(t *testing.T) {
	for name, tc := range map[string]struct {
		stop  func(tab *table, ann *client)
		word  string
		fails bool
	}{
		"when told by a signal": {func(tab *table, _ *client) { tab.stop() }, "OVER the server is stopping", false},
		"when terminated":       {func(tab *table, _ *client) { tab.berth.tell(tab.t, gameserver.Terminated{Message: "enough"}) }, "OVER terminated", false},
		"when the link is lost": {func(tab *table, _ *client) { close(tab.berth.done) }, "OVER the server lost its place", true},
		"when the end is not taken": {func(tab *table, ann *client) {
			tab.join("bob").say("SCORE 1")
			ann.say("SCORE 1")
		}, "OVER without a result", true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeBerth("ann", "bob")
			f.endErr = errors.New("refused")
			tab := start(t, f, patient(1))
			ann := tab.join("ann")
			waiting := tab.dial("") // somebody who never gets to the point must not hold it up
			tc.stop(tab, ann)
			ann.want(tc.word)
			ann.wantClosed()
			if err := tab.wantEnd(); (err != nil) != tc.fails {
				t.Errorf("the match ended with %v", err)
			}
			waiting.wantClosed()
		})
	}
}
