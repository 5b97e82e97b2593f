package grpcserver

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/pagetoken"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/pkg/rpc"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/redisstore"
	"github.com/berth-dev/berth/services/gameinstance/internal/watch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watched is a server of watches whose streams report how they ended.
type watched struct {
	store  *redisstore.Store
	client instancev1.GameInstanceServiceClient
	ended  chan error
}

func serve(t *testing.T, stall time.Duration) *watched {
	t.Helper()
	store := redisstore.New(redistest.Embedded(t))
	instances := instance.NewService(instance.Config{Store: store})
	hub := watch.New(watch.Config{Feed: store, Records: store, Instances: instances, Log: slog.New(slog.DiscardHandler), Stall: stall})
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error)
	go func() { stopped <- hub.Run(ctx) }()
	w := &watched{store: store, ended: make(chan error, 10)}
	server := grpc.NewServer(grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		err := next(srv, stream)
		w.ended <- err
		return rpc.Status(err).Err()
	}))
	instancev1.RegisterGameInstanceServiceServer(server, NewInstance(instances, store, pagetoken.Key{}, hub))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(ln) }()
	conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	w.client = instancev1.NewGameInstanceServiceClient(conn)
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		cancel()
		<-stopped
	})
	return w
}

// create makes an instance that is large in lists too.
func (w *watched) create(t *testing.T) string {
	t.Helper()
	id := uuid.NewString()
	change, err := instance.Decide(nil, instance.Create{
		Namespace: "default", ID: id, SkipAllocation: true, Settings: fmt.Appendf(nil, "{%q:%q}", "map", bytes.Repeat([]byte("x"), 16<<10)),
	}, "test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.Commit(t.Context(), change, nil); err != nil {
		t.Fatal(err)
	}
	return id
}

func (w *watched) watch(t *testing.T) grpc.ServerStreamingClient[instancev1.WatchGameInstancesResponse] {
	t.Helper()
	stream, err := w.client.WatchGameInstances(t.Context(), &instancev1.WatchGameInstancesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	return stream
}

// A client that stops reading is dropped on a real connection, with a reason that it finds when it reads again. Others, on the same connection, have
// everything meanwhile.
func TestAClientThatDoesNotReadIsDropped(t *testing.T) {
	w := serve(t, 200*time.Millisecond)
	for range 100 { // more than the buffers of a stream take
		w.create(t)
	}
	slow, quick := w.watch(t), w.watch(t)
	seen := 1
	for ; ; seen++ {
		m, err := quick.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.GetSnapshotComplete() != nil {
			break
		}
	}
	if seen != 100 {
		t.Errorf("the snapshot has %d instances", seen)
	}
	if err := <-w.ended; !errs.Is(err, errs.WatchTooSlow) {
		t.Fatalf("a watch ended with %v", err)
	}
	id := w.create(t)
	if m, err := quick.Recv(); err != nil || m.GetInstance().GetId() != id {
		t.Errorf("the other watcher receives %v, %v", m, err)
	}
	var err error
	for err == nil {
		_, err = slow.Recv()
	}
	if errs.ReasonOf(rpc.FromStatus(err)) != errs.WatchTooSlow {
		t.Errorf("the watcher that was dropped is told %v", err)
	}
}
