package revocations_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/pkg/revocations"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	"github.com/berth-dev/berth/sdk/go/token"
)

// issuer is a token-issuer that can be away.
type issuer struct {
	tokenv1.UnimplementedTokenServiceServer
	mu     sync.Mutex
	away   bool
	answer *tokenv1.GetRevocationsResponse
	asked  chan int64 // known versions
}

func (i *issuer) GetRevocations(_ context.Context, req *tokenv1.GetRevocationsRequest) (*tokenv1.GetRevocationsResponse, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	select {
	case i.asked <- req.GetKnownVersion():
	default:
	}
	if i.away {
		return nil, status.Error(codes.Unavailable, "away")
	}
	return i.answer, nil
}

func (i *issuer) set(away bool, version int64, targets ...*tokenv1.RevocationTarget) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.away, i.answer = away, &tokenv1.GetRevocationsResponse{Version: version, Targets: targets}
}

func pair(id string) *tokenv1.RevocationTarget {
	return &tokenv1.RevocationTarget{Namespace: "n", Target: &tokenv1.RevocationTarget_PairId{PairId: id}}
}

func server(pairID string) token.Server {
	return token.Server{ID: "s", PairID: pairID, Namespace: "n", IssueTime: time.Now()}
}

func refused(err error) bool {
	var e *token.Error
	return errors.As(err, &e) && e.Reason == token.Revoked
}

type world struct {
	*issuer
	watch   *revocations.Watch
	changed chan *token.Revocations
	hint    func()
}

func start(t *testing.T, i *issuer) world {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	tokenv1.RegisterTokenServiceServer(srv, i)
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(srv.Stop)
	conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	store := redistest.Embedded(t)
	w := world{issuer: i, changed: make(chan *token.Revocations, 16)}
	w.watch = revocations.New(revocations.Config{
		Issuer: conn, Redis: store, Changed: func(r *token.Revocations) { w.changed <- r }, Log: slog.New(slog.DiscardHandler),
	})
	w.hint = func() {
		if err := store.Publish(context.Background(), redisx.RevocationsChannel, "").Err(); err != nil {
			t.Error(err)
		}
	}
	if err := w.watch.Ready(t.Context()); !errors.Is(err, revocations.ErrUnknown) {
		t.Errorf("before the list is known: %v", err)
	}
	if err := w.watch.Check(server("p")); !errors.Is(err, revocations.ErrUnknown) {
		t.Errorf("before the list is known: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.watch.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return w
}

func TestTheListIsTheNewestThatCouldBeHad(t *testing.T) {
	i := &issuer{asked: make(chan int64, 64)}
	i.set(true, 0)
	w := start(t, i)
	<-i.asked
	<-i.asked // and again, without a hint
	if w.watch.Ready(t.Context()) == nil {
		t.Error("ready without a list")
	}
	i.set(false, 0)
	if list := <-w.changed; list.Version() != 0 || w.watch.Ready(t.Context()) != nil || w.watch.Check(server("p")) != nil {
		t.Errorf("an empty list: %v", w.watch.Check(server("p")))
	}

	i.set(false, 7, pair("p"))
	w.hint()
	<-w.changed
	if err := w.watch.Check(server("p")); !refused(err) {
		t.Errorf("revoked: %v", err)
	}
	if err := w.watch.Check(server("other")); err != nil {
		t.Errorf("another: %v", err)
	}

	// A store that has lost it, and an issuer that is away, change nothing.
	i.set(false, 6)
	drain(i.asked)
	w.hint()
	if known := <-i.asked; known != 7 {
		t.Errorf("asked with version %d", known)
	}
	i.set(true, 0)
	w.hint()
	<-i.asked
	<-i.asked // the one before is over then
	if err := w.watch.Check(server("p")); !refused(err) || w.watch.Ready(t.Context()) != nil {
		t.Errorf("after a loss: %v", err)
	}
}

func drain(c chan int64) {
	for {
		select {
		case <-c:
		default:
			return
		}
	}
}

// A list with something in it that this version does not know is not taken for one without it.
func TestAnUnknownKindIsNoList(t *testing.T) {
	i := &issuer{asked: make(chan int64, 64)}
	i.set(false, 1, &tokenv1.RevocationTarget{Namespace: "n"})
	w := start(t, i)
	<-i.asked
	<-i.asked
	if w.watch.Ready(t.Context()) == nil {
		t.Error("ready with a list that it cannot read")
	}
}

type verified struct {
	server token.Server
	err    error
}

func (v verified) VerifyPair(context.Context, string, string) (token.Server, error) {
	return v.server, v.err
}

func TestGuard(t *testing.T) {
	i := &issuer{asked: make(chan int64, 64)}
	i.set(false, 1, pair("p"))
	w := start(t, i)
	<-w.changed
	expired, invalid := &token.Error{Reason: token.Expired}, &token.Error{Reason: token.Invalid}
	for name, c := range map[string]struct {
		pair verified
		want error
	}{
		"good":                {verified{server("good"), nil}, nil},
		"expired":             {verified{server("good"), expired}, expired},
		"invalid":             {verified{token.Server{}, invalid}, invalid},
		"revoked":             {verified{server("p"), nil}, &token.Error{Reason: token.Revoked}},
		"expired and revoked": {verified{server("p"), expired}, &token.Error{Reason: token.Revoked}},
	} {
		got, err := w.watch.Guard(c.pair).VerifyPair(t.Context(), "", "")
		var a, b *token.Error
		if errors.As(err, &a) != errors.As(c.want, &b) || a != nil && a.Reason != b.Reason {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if refused(err) && got.ID != "" {
			t.Errorf("%s: names %+v", name, got)
		}
	}
}

type claims struct{ claim token.Claim }

func (c claims) VerifyClaim(context.Context, string) (token.Claim, error) { return c.claim, nil }

// As long as nobody can say what is revoked, no code is good.
func TestGuardClaims(t *testing.T) {
	i := &issuer{asked: make(chan int64, 64)}
	i.set(true, 0)
	w := start(t, i)
	if _, err := w.watch.GuardClaims(claims{}).VerifyClaim(t.Context(), ""); !errors.Is(err, revocations.ErrUnknown) {
		t.Errorf("without the list: %v", err)
	}
	i.set(false, 1, pair("p"))
	<-w.changed
	of := func(id string) claims {
		return claims{token.Claim{PairID: id, ServerID: "s", Namespace: server("p").Namespace}}
	}
	if _, err := w.watch.GuardClaims(of("p")).VerifyClaim(t.Context(), ""); !refused(err) {
		t.Errorf("revoked: %v", err)
	}
	if got, err := w.watch.GuardClaims(of("good")).VerifyClaim(t.Context(), ""); err != nil || got.PairID != "good" {
		t.Errorf("good: %+v, %v", got, err)
	}
}
