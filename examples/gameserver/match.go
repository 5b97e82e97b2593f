package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// callTimeout is how long a call may wait for a Berth that is away.
const callTimeout = 2 * time.Minute

// berth is what the match needs of Berth: a *gameserver.Server.
type berth interface {
	Instance() *instancev1.GameInstance
	VerifyTicket(ctx context.Context, ticket string) (*instancev1.Player, error)
	ConnectPlayers(ctx context.Context, playerIDs ...string) error
	UpdatePlayers(ctx context.Context, updates ...*instancev1.PlayerUpdate) error
	UpdateGameData(ctx context.Context, data *typev1.Data) error
	End(ctx context.Context, result *typev1.Data) error
	Events() <-chan gameserver.Event
	Done() <-chan struct{}
	Err() error
}

// rules are how the game is played.
type rules struct {
	rounds    int
	roundTime time.Duration
	hold      bool // play on after the last round until told to end
}

// match is the game. One goroutine, play's, owns everything in it but the channels.
type match struct {
	rules
	berth   berth
	log     *slog.Logger
	reports *reporter
	inputs  chan input    // from the connections, each of which waits until the match has time for it
	over    chan struct{} // closed when nobody reads inputs any more

	present map[string]*player // who is here
	came    map[string]bool    // who has been here
	scores  map[string]int
	scored  map[string]bool // who has scored in this round
	round   int             // 0 before the first
	tick    *time.Timer     // ends the round
}

func newMatch(b berth, r rules, log *slog.Logger) *match {
	return &match{
		rules: r, berth: b, log: log, reports: newReporter(log),
		inputs: make(chan input), over: make(chan struct{}),
		present: make(map[string]*player), came: make(map[string]bool), scores: make(map[string]int), scored: make(map[string]bool),
	}
}

// play runs the match to its end: a result, a termination by Berth, or the end of ctx. When it returns everybody has been sent
// home.
func (m *match) play(ctx context.Context, listener net.Listener) error {
	playing, stop := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	tasks.Go(func() { m.reports.run(playing) })
	tasks.Go(func() { m.welcome(playing, listener) })
	m.tick = time.NewTimer(m.roundTime)
	m.tick.Stop()

	last, err := m.loop(playing)
	m.broadcast("OVER " + last)
	for _, p := range m.present {
		p.leave()
	}
	close(m.over)
	stop()
	_ = listener.Close() // ends welcome
	tasks.Wait()
	return err
}

// loop returns the last word to the players.
func (m *match) loop(ctx context.Context) (string, error) {
	events, over := m.berth.Events(), m.berth.Done()
	for {
		ended := false
		select {
		case <-ctx.Done():
			m.log.Info("told to stop")
			return "the server is stopping", nil
		case <-over:
			if orphaned(m.berth.Err()) { // nobody else can end the match now, and the players are here
				m.log.Warn("Berth does not know this match any more, it is played to its end")
				over = nil
				continue
			}
			return "the server lost its place", fmt.Errorf("the link is over: %w", cmp.Or(m.berth.Err(), gameserver.ErrClosed))
		case e, ok := <-events:
			if !ok {
				events = nil // Done says why
				continue
			}
			if t, terminated := e.(gameserver.Terminated); terminated {
				m.log.Info("terminated", "reason", t.Reason.String(), "message", t.Message)
				return "terminated", nil
			}
			ended = m.event(e)
		case in := <-m.inputs:
			ended = m.input(in)
		case <-m.tick.C:
			ended = m.endRound()
		}
		if ended {
			return m.end(ctx)
		}
	}
}

// event takes over what a backend did. It reports whether that ends the match.
func (m *match) event(e gameserver.Event) (ended bool) {
	switch e := e.(type) {
	case gameserver.PlayersAdded:
		m.open(e.Players)
	case gameserver.PlayersRemoved:
		for _, id := range e.PlayerIDs {
			m.remove(id)
		}
		m.begin() // perhaps they were the ones who had not come
	case gameserver.GameDataUpdated:
		var data struct {
			End bool `json:"end"`
		}
		if err := gameserver.DecodeJSON(e.GameData, &data); err != nil {
			m.log.Warn("game data is not understood", "error", err)
		}
		return data.End && m.hold
	case gameserver.MessageReceived:
		m.announce(e)
	case gameserver.Relinked:
		m.open(e.Instance.GetPlayers())
		for id := range m.present {
			if !slices.ContainsFunc(e.Instance.GetPlayers(), func(p *instancev1.Player) bool { return p.GetId() == id }) {
				m.remove(id)
			}
		}
		m.begin()
	}
	return false
}

// announce tells everybody what a backend has to say, under the topic "announce".
func (m *match) announce(message gameserver.MessageReceived) {
	var said struct {
		Text string `json:"text"`
	}
	if err := gameserver.DecodeJSON(message.Data, &said); err != nil || message.Topic != "announce" {
		m.log.Warn("a message is not understood", "topic", message.Topic, "error", err)
		return
	}
	m.broadcast("ANNOUNCED " + strings.Join(strings.Fields(said.Text), " "))
}

// open lets further players in.
func (m *match) open(players []*instancev1.Player) {
	var ids []string
	for _, p := range players {
		if !p.GetConnectable() {
			ids = append(ids, p.GetId())
		}
	}
	if len(ids) > 0 {
		m.reports.add("open", func(ctx context.Context) error { return m.berth.ConnectPlayers(ctx, ids...) })
	}
}

// remove turns somebody out for good.
func (m *match) remove(id string) {
	delete(m.scores, id)
	if p, ok := m.present[id]; ok {
		p.send("REMOVED")
		p.leave()
		delete(m.present, id)
		m.broadcast("LEFT " + id)
	}
}

// input deals with what came from a connection. It reports whether that ends the match.
func (m *match) input(in input) (ended bool) {
	p := in.from
	if in.kind == joined {
		m.join(p)
		return false
	}
	if m.present[p.id] != p {
		return false // was turned out, or has come again on another connection
	}
	if in.kind == left {
		m.leave(p)
		return false
	}
	command, rest, _ := strings.Cut(in.line, " ")
	switch command {
	case "SAY":
		m.broadcast("SAID " + p.id + " " + rest)
	case "SCORE":
		return m.score(p, rest)
	case "END":
		if m.hold {
			return true
		}
		p.send("ERROR the match ends by itself")
	case "QUIT":
		p.send("BYE")
		m.leave(p)
	default:
		p.send("ERROR unknown command: use SAY, SCORE or QUIT")
	}
	return false
}

func (m *match) join(p *player) {
	if before, ok := m.present[p.id]; ok {
		before.send("REPLACED")
		before.leave()
	}
	m.present[p.id] = p
	m.came[p.id] = true
	p.send("WELCOME " + p.id)
	m.broadcast("JOINED " + p.id)
	m.log.Info("player joined", "player_id", p.id)
	m.reportPresence(p.id, instancev1.Player_PRESENCE_PRESENT)
	if m.round > 0 {
		p.send(fmt.Sprintf("ROUND %d", m.round))
	}
	m.begin()
}

// begin starts the match once everybody who is invited has come.
func (m *match) begin() {
	invited := m.berth.Instance().GetPlayers()
	missing := slices.ContainsFunc(invited, func(p *instancev1.Player) bool { return !m.came[p.GetId()] })
	if m.round == 0 && len(invited) > 0 && !missing {
		m.startRound()
	}
}

func (m *match) leave(p *player) {
	p.leave()
	delete(m.present, p.id)
	m.broadcast("LEFT " + p.id)
	m.log.Info("player left", "player_id", p.id)
	m.reportPresence(p.id, instancev1.Player_PRESENCE_ABSENT)
}

func (m *match) reportPresence(id string, presence instancev1.Player_Presence) {
	m.reports.add("presence", func(ctx context.Context) error {
		return m.berth.UpdatePlayers(ctx, &instancev1.PlayerUpdate{PlayerId: id, Presence: presence})
	})
}

func (m *match) score(p *player, text string) (ended bool) {
	points, err := strconv.Atoi(text)
	switch {
	case err != nil || points < 0 || points > 1000:
		p.send("ERROR points are a number from 0 to 1000")
		return false
	case m.round == 0:
		p.send("ERROR the match has not begun")
		return false
	case m.scored[p.id]:
		p.send("ERROR you have scored in this round")
		return false
	}
	m.scored[p.id] = true
	m.scores[p.id] += points
	if m.hold {
		return false // rounds without an end: let the clock pace them
	}
	for id := range m.present {
		if !m.scored[id] {
			return false
		}
	}
	return m.endRound() // everybody has
}

func (m *match) startRound() {
	m.round++
	clear(m.scored)
	m.tick.Reset(m.roundTime)
	m.broadcast(fmt.Sprintf("ROUND %d", m.round))
}

// endRound tells Berth how the match stands. It reports whether the match has ended.
func (m *match) endRound() bool {
	m.tick.Stop()
	standing, round := maps.Clone(m.scores), m.round
	m.reports.add("standing", func(ctx context.Context) error { return m.reportStanding(ctx, round, standing) })
	if m.round >= m.rounds && !m.hold {
		return true
	}
	m.startRound()
	return false
}

func (m *match) reportStanding(ctx context.Context, round int, scores map[string]int) error {
	game := make(map[string]any)
	if err := gameserver.DecodeJSON(m.berth.Instance().GetGameData(), &game); err != nil {
		m.log.Warn("game data is replaced", "error", err)
	}
	game["round"], game["scores"] = round, scores
	data, err := gameserver.JSON(game)
	if err != nil {
		return err
	}
	if err := m.berth.UpdateGameData(ctx, data); err != nil {
		return err
	}
	var updates []*instancev1.PlayerUpdate
	for id, points := range scores {
		own, err := gameserver.JSON(map[string]any{"score": points})
		if err != nil {
			return err
		}
		updates = append(updates, &instancev1.PlayerUpdate{PlayerId: id, Data: own})
	}
	if len(updates) == 0 {
		return nil
	}
	return m.berth.UpdatePlayers(ctx, updates...)
}

// result is how the game ended.
type result struct {
	Winner string         `json:"winner"`
	Scores map[string]int `json:"scores"`
	Rounds int            `json:"rounds"`
}

// end stores the result with Berth before the players hear of it.
func (m *match) end(ctx context.Context) (string, error) {
	r := result{Winner: winner(m.scores), Scores: m.scores, Rounds: m.round}
	data, err := gameserver.JSON(r)
	if err != nil {
		return "without a result", err
	}
	m.reports.flush()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := m.berth.End(ctx, data); err != nil {
		if orphaned(err) { // a game that is worth it writes it to where somebody looks for it
			m.log.Warn("the result could not be left with Berth", "winner", r.Winner, "scores", r.Scores, "rounds", r.Rounds)
			return cmp.Or(r.Winner, "nobody"), nil
		}
		if m.berth.Instance().GetState() == instancev1.GameInstance_STATE_TERMINATED {
			return "terminated", nil // a backend was faster
		}
		return "without a result", err
	}
	m.log.Info("game over", "winner", r.Winner, "rounds", r.Rounds)
	return cmp.Or(r.Winner, "nobody"), nil
}

// orphaned reports whether Berth does not know the match any more.
func orphaned(err error) bool {
	_, is := errors.AsType[*gameserver.OrphanedError](err)
	return is
}

// winner is whoever has most points, the first by name among equals; empty if nobody scored.
func winner(scores map[string]int) string {
	best := ""
	for _, id := range slices.Sorted(maps.Keys(scores)) {
		if best == "" || scores[id] > scores[best] {
			best = id
		}
	}
	return best
}

func (m *match) broadcast(line string) {
	for _, p := range m.present {
		p.send(line)
	}
}
