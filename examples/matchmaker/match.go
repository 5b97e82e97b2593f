package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	callTimeout = 10 * time.Second
	retryAfter  = 200 * time.Millisecond
)

type config struct {
	build, namespace string
	players          int
	timeout          time.Duration
}

// match is one match from the matchmaker's side.
type match struct {
	config
	api   instancev1.GameInstanceServiceClient
	steps *timeline
	id    string // the instance's
	state instancev1.GameInstance_State
}

func newMatch(api instancev1.GameInstanceServiceClient, cfg config) *match {
	return &match{config: cfg, api: api, steps: newTimeline()}
}

// result is what the game server ends the game with.
type result struct {
	Winner string         `json:"winner"`
	Scores map[string]int `json:"scores"`
	Rounds int            `json:"rounds"`
}

// play plays the match.
func (m *match) play(ctx context.Context) (result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, m.timeout, fmt.Errorf("the match took longer than %s", m.timeout))
	defer cancel()
	if err := m.create(ctx); err != nil {
		return result{}, fmt.Errorf("create: %w", err)
	}
	// Whatever happens from here on, Berth's own account of it belongs to the timeline.
	r, err := m.conduct(ctx)
	if herr := m.history(context.WithoutCancel(ctx)); herr != nil {
		err = errors.Join(err, fmt.Errorf("history: %w", herr))
	}
	return r, err
}

func (m *match) conduct(ctx context.Context) (result, error) {
	if _, err := m.watch(ctx, instancev1.GameInstance_STATE_RUNNING); err != nil {
		return result{}, fmt.Errorf("wait for the server: %w", err)
	}
	if err := m.sendPlayers(ctx); err != nil {
		return result{}, err
	}
	over, err := m.watch(ctx, instancev1.GameInstance_STATE_ENDED)
	if err != nil {
		return result{}, fmt.Errorf("wait for the end: %w", err)
	}
	return m.check(over)
}

func (m *match) playerID(n int) string { return fmt.Sprintf("player-%d", n+1) }

// create asks for the match. The request id makes it one match, however often the call has to be repeated.
func (m *match) create(ctx context.Context) error {
	req := &instancev1.CreateGameInstanceRequest{
		Namespace: m.namespace,
		RequestId: rand.Text(),
		Placement: &instancev1.Placement{Build: m.build},
	}
	for n := range m.players {
		req.Players = append(req.Players, &instancev1.Player{Id: m.playerID(n), TeamId: []string{"red", "blue"}[n%2]})
	}
	return m.retry(ctx, func(ctx context.Context) error {
		resp, err := m.api.CreateGameInstance(ctx, req)
		if err != nil {
			return err
		}
		m.id = resp.GetInstance().GetId()
		m.steps.note("matchmaker", "created instance %s for %d players", m.id, m.players)
		return nil
	})
}

// watch follows the instance until it is in the state that is wanted, and fails if it is over before. A watch that breaks is begun again.
func (m *match) watch(ctx context.Context, want instancev1.GameInstance_State) (*instancev1.GameInstance, error) {
	for {
		in, err := m.watchOnce(ctx, want)
		if err == nil || !passing(err) && !errors.Is(err, io.EOF) {
			return in, err
		}
		m.steps.note("matchmaker", "the watch broke off; beginning again")
		if err := pause(ctx); err != nil {
			return nil, err
		}
	}
}

func (m *match) watchOnce(ctx context.Context, want instancev1.GameInstance_State) (*instancev1.GameInstance, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream
	stream, err := m.api.WatchGameInstance(ctx, &instancev1.WatchGameInstanceRequest{Namespace: m.namespace, InstanceId: m.id})
	if err != nil {
		return nil, explain(ctx, err)
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return nil, explain(ctx, err)
		}
		in := resp.GetInstance()
		if in.GetState() != m.state {
			m.state = in.GetState()
			m.steps.note("watch", "%s", name(m.state))
		}
		switch in.GetState() {
		case want:
			return in, nil
		case instancev1.GameInstance_STATE_ENDED, instancev1.GameInstance_STATE_TERMINATED:
			return nil, fmt.Errorf("the instance is %s (%s): %s", name(in.GetState()), in.GetReason(), in.GetMessage())
		}
	}
}

func name(s instancev1.GameInstance_State) string { return strings.TrimPrefix(s.String(), "STATE_") }

// sendPlayers has all players play their match, and somebody else fail to.
func (m *match) sendPlayers(ctx context.Context) error {
	players := make([]*player, m.players)
	for n := range players {
		p, err := m.invite(ctx, m.playerID(n))
		if err != nil {
			return fmt.Errorf("connection of %s: %w", m.playerID(n), err)
		}
		players[n] = p
	}
	intruder := &player{id: "intruder", address: players[0].address, ticket: forge(players[0].ticket), steps: m.steps}
	if err := intruder.isRefused(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ends := make(chan error, len(players))
	for n, p := range players {
		go func() { ends <- p.play(ctx, 10*(n+1)) }()
	}
	var first error
	for range players {
		if err := <-ends; err != nil && first == nil {
			first = err
			cancel() // without one of them there is no match for the others
		}
	}
	return first
}

// invite gets what one player needs to connect.
func (m *match) invite(ctx context.Context, id string) (*player, error) {
	p := &player{id: id, steps: m.steps}
	err := m.retry(ctx, func(ctx context.Context) error {
		resp, err := m.api.GetPlayerConnection(ctx, &instancev1.GetPlayerConnectionRequest{Namespace: m.namespace, InstanceId: m.id, PlayerId: id})
		if err != nil {
			return err
		}
		p.ticket = resp.GetTicket()
		p.address, err = gameAddress(resp.GetEndpoints())
		return err
	})
	if err == nil {
		m.steps.note("matchmaker", "has a ticket for %s, who is sent to %s", id, p.address)
	}
	return p, err
}

func gameAddress(endpoints []*typev1.Endpoint) (string, error) {
	for _, e := range endpoints {
		if e.GetName() == "game" && e.GetProtocol() != typev1.Protocol_PROTOCOL_UDP {
			return net.JoinHostPort(e.GetHost(), strconv.FormatUint(uint64(e.GetPort()), 10)), nil
		}
	}
	return "", fmt.Errorf("no endpoint \"game\" among %d", len(endpoints))
}

// check reads the result, and whether it can be that of this match.
func (m *match) check(in *instancev1.GameInstance) (result, error) {
	b, err := in.GetResult().GetJson().MarshalJSON()
	if err != nil {
		return result{}, fmt.Errorf("result: %w", err)
	}
	var r result
	if err := json.Unmarshal(b, &r); err != nil {
		return result{}, fmt.Errorf("result: %w", err)
	}
	if r.Rounds < 1 || len(r.Scores) != m.players {
		return r, fmt.Errorf("result: %d rounds and the scores of %d players, of whom there were %d", r.Rounds, len(r.Scores), m.players)
	}
	if want := m.playerID(m.players - 1); r.Winner != want { // who scores most in every round
		return r, fmt.Errorf("result: %s won, but %s had more points", r.Winner, want)
	}
	m.steps.note("matchmaker", "has the result: %s won", r.Winner)
	return r, nil
}

// history adds Berth's account to the timeline.
func (m *match) history(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return m.retry(ctx, func(ctx context.Context) error {
		resp, err := m.api.ListHistory(ctx, &instancev1.ListHistoryRequest{Namespace: m.namespace, InstanceId: m.id})
		if err != nil {
			return err
		}
		for _, e := range resp.GetEntries() {
			what := e.GetEvent()
			if e.GetFromState() != e.GetToState() {
				what += " -> " + name(e.GetToState())
			}
			m.steps.add(e.GetTime().AsTime(), "berth", fmt.Sprintf("%s (%s) %s", what, e.GetActor(), e.GetDetail()))
		}
		return nil
	})
}

// retry repeats a call while Berth is away.
func (m *match) retry(ctx context.Context, call func(context.Context) error) error {
	for {
		once, cancel := context.WithTimeout(ctx, callTimeout)
		err := call(once)
		cancel()
		if err == nil || ctx.Err() != nil || !passing(err) {
			return explain(ctx, err)
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// passing reports whether the same call may succeed in a moment.
func passing(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.Aborted, codes.DeadlineExceeded:
		return true
	default:
		return false
	}
}

func pause(ctx context.Context) error {
	t := time.NewTimer(retryAfter)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// explain says why the match was broken off, where that is why the call failed.
func explain(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}
