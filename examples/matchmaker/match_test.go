package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeBerth is the API and the game server behind it: as soon as all players have come and scored once, the game is over.
type fakeBerth struct {
	instancev1.UnimplementedGameInstanceServiceServer
	t        *testing.T
	game     net.Listener
	conns    sync.WaitGroup
	key      string
	letsIn   func(ticket string) bool
	fails    map[string]int // by method: how often it is away first
	deadAt   string         // the state in which the instance dies instead, as in "ALLOCATING"
	wrongEnd bool           // the result is not that of the match

	mu       sync.Mutex
	requests map[string]bool // ids of create
	players  int
	scores   map[string]any
	over     chan struct{} // closed when all have scored
	stopped  chan struct{} // closed at the test's end
}

func startFake(t *testing.T) (*fakeBerth, *match) {
	t.Helper()
	game, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeBerth{
		t: t, game: game, key: "KEY", fails: make(map[string]int), requests: make(map[string]bool), scores: make(map[string]any), over: make(chan struct{}), stopped: make(chan struct{}),
		letsIn: func(ticket string) bool { return !strings.Contains(claimsOf(ticket), "not-") },
	}
	f.conns.Go(f.serveGame)
	api, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	instancev1.RegisterGameInstanceServiceServer(srv, f)
	f.conns.Go(func() { _ = srv.Serve(api) })
	t.Cleanup(func() {
		close(f.stopped)
		srv.Stop()
		game.Close()
		f.conns.Wait()
	})
	return f, newTestMatch(t, api.Addr().String())
}

func newTestMatch(t *testing.T, address string) *match {
	t.Helper()
	conn, err := grpc.NewClient(address, dialOptions("KEY")...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return newMatch(instancev1.NewGameInstanceServiceClient(conn), config{build: "example", namespace: "default", players: 3, timeout: 10 * time.Second})
}

// away fails a call as Berth does when it is away, as often as the test says.
func (f *fakeBerth) away(ctx context.Context, method string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if md, _ := metadata.FromIncomingContext(ctx); strings.Join(md.Get("authorization"), "") != "Bearer "+f.key {
		return status.Error(codes.Unauthenticated, "no key")
	}
	if f.fails[method] > 0 {
		f.fails[method]--
		return status.Error(codes.Unavailable, "away")
	}
	return nil
}

func (f *fakeBerth) CreateGameInstance(ctx context.Context, req *instancev1.CreateGameInstanceRequest) (*instancev1.CreateGameInstanceResponse, error) {
	f.mu.Lock()
	f.requests[req.GetRequestId()] = true
	f.players = len(req.GetPlayers())
	f.mu.Unlock()
	if err := f.away(ctx, "create"); err != nil {
		return nil, err
	}
	return &instancev1.CreateGameInstanceResponse{Instance: &instancev1.GameInstance{Id: "i-1"}}, nil
}

func (f *fakeBerth) WatchGameInstance(_ *instancev1.WatchGameInstanceRequest, stream grpc.ServerStreamingServer[instancev1.WatchGameInstanceResponse]) error {
	send := func(s instancev1.GameInstance_State) error {
		in := &instancev1.GameInstance{Id: "i-1", State: s}
		if name(s) == f.deadAt {
			in.State, in.Reason, in.Message = instancev1.GameInstance_STATE_TERMINATED, instancev1.GameInstance_REASON_ALLOCATION_FAILED, "no room"
		}
		if s == instancev1.GameInstance_STATE_ENDED {
			in.Result = f.result()
		}
		return stream.Send(&instancev1.WatchGameInstanceResponse{Instance: in})
	}
	for _, s := range []instancev1.GameInstance_State{instancev1.GameInstance_STATE_ALLOCATING, instancev1.GameInstance_STATE_RUNNING} {
		if err := send(s); err != nil {
			return err
		}
		if err := f.away(stream.Context(), "watch"); err != nil {
			return err
		}
	}
	select {
	case <-f.over:
		return send(instancev1.GameInstance_STATE_ENDED)
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
}

func (f *fakeBerth) GetPlayerConnection(ctx context.Context, req *instancev1.GetPlayerConnectionRequest) (*instancev1.GetPlayerConnectionResponse, error) {
	if err := f.away(ctx, "connection"); err != nil {
		return nil, err
	}
	at := f.game.Addr().(*net.TCPAddr)
	return &instancev1.GetPlayerConnectionResponse{
		Endpoints: []*typev1.Endpoint{
			{Name: "voice", Host: "127.0.0.1", Port: 1, Protocol: typev1.Protocol_PROTOCOL_UDP},
			{Name: "game", Host: at.IP.String(), Port: uint32(at.Port), Protocol: typev1.Protocol_PROTOCOL_TCP},
		},
		Ticket: "header." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"sub":"%s"}`, req.GetPlayerId())) + ".signature",
	}, nil
}

func (f *fakeBerth) ListHistory(ctx context.Context, _ *instancev1.ListHistoryRequest) (*instancev1.ListHistoryResponse, error) {
	if err := f.away(ctx, "history"); err != nil {
		return nil, err
	}
	return &instancev1.ListHistoryResponse{Entries: []*instancev1.HistoryEntry{
		{Time: timestamppb.Now(), Event: "ended", FromState: instancev1.GameInstance_STATE_RUNNING, ToState: instancev1.GameInstance_STATE_ENDED, Actor: "server:s-1"},
	}}, nil
}

func (f *fakeBerth) result() *typev1.Data {
	f.mu.Lock()
	defer f.mu.Unlock()
	winner := "player-3"
	if f.wrongEnd {
		winner = "player-1"
	}
	object, err := structpb.NewStruct(map[string]any{"winner": winner, "scores": f.scores, "rounds": 1})
	if err != nil {
		f.t.Error(err)
	}
	return &typev1.Data{Kind: &typev1.Data_Json{Json: object}}
}

func (f *fakeBerth) serveGame() {
	for {
		conn, err := f.game.Accept()
		if err != nil {
			return
		}
		f.conns.Go(func() {
			defer conn.Close()
			f.servePlayer(conn)
		})
	}
}

func (f *fakeBerth) servePlayer(conn net.Conn) {
	lines := bufio.NewScanner(conn)
	if !lines.Scan() {
		return
	}
	ticket := strings.TrimPrefix(lines.Text(), "JOIN ")
	if !f.letsIn(ticket) {
		fmt.Fprintln(conn, "REFUSED ticket-invalid")
		return
	}
	fmt.Fprint(conn, "WELCOME you\nROUND 1\n")
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "SCORE ") {
			f.mu.Lock()
			f.scores[claimsOf(ticket)] = 1
			if len(f.scores) == f.players {
				close(f.over)
			}
			f.mu.Unlock()
			select {
			case <-f.over:
			case <-f.stopped:
				return
			}
			fmt.Fprintln(conn, "OVER player-3")
			return
		}
	}
}

func claimsOf(ticket string) string {
	parts := strings.Split(ticket, ".")
	if len(parts) != 3 {
		return "not-a-ticket"
	}
	claims, _ := base64.RawURLEncoding.DecodeString(parts[1])
	return string(claims)
}

func TestMatch(t *testing.T) {
	f, m := startFake(t)
	f.fails = map[string]int{"create": 1, "watch": 2, "connection": 1, "history": 1} // Berth is away now and then
	r, err := m.play(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.Winner != "player-3" || len(r.Scores) != 3 {
		t.Errorf("the result is %+v", r)
	}
	if len(f.requests) != 1 {
		t.Errorf("create was called with %d request ids, want one", len(f.requests))
	}
	var out bytes.Buffer
	m.steps.print(&out)
	for _, want := range []string{"created instance i-1", "RUNNING", "ENDED", "intruder", "turned away", "player-2     is in", "ended -> ENDED", "server:s-1"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the timeline has no %q:\n%s", want, &out)
		}
	}
}

func TestMatchFails(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(*fakeBerth, *match)
		want  string
	}{
		"no server":          {func(f *fakeBerth, _ *match) { f.deadAt = "ALLOCATING" }, "REASON_ALLOCATION_FAILED): no room"},
		"intruder is let in": {func(f *fakeBerth, _ *match) { f.letsIn = func(string) bool { return true } }, "forged"},
		"a player is not": {func(f *fakeBerth, _ *match) {
			f.letsIn = func(ticket string) bool { return strings.Contains(claimsOf(ticket), `"player-1"`) }
		}, "REFUSED"},
		"another result":       {func(f *fakeBerth, _ *match) { f.wrongEnd = true }, "player-1 won"},
		"it takes too long":    {func(f *fakeBerth, m *match) { f.fails["connection"], m.timeout = 1000, 100*time.Millisecond }, "took longer than"},
		"the key is not taken": {func(f *fakeBerth, _ *match) { f.key = "OTHER" }, "no key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, m := startFake(t)
			tc.spoil(f, m)
			_, err := m.play(t.Context())
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want one with %q", err, tc.want)
			}
		})
	}
}
