package static_test

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// wire is the way from the provider to game-instance. What goes wrong happens on it, and to real calls of a real service.
type wire struct {
	*grpc.ClientConn // to game-instance

	mu    sync.Mutex
	fault fault
	calls sync.WaitGroup // that nobody waits for any more
}

// fault does something else with a call than to make it.
type fault func(ctx context.Context, c rpcCall) error

// rpcCall is a call of game-instance.
type rpcCall struct {
	conn        grpc.ClientConnInterface
	method      string
	args, reply any
	opts        []grpc.CallOption
}

func (c rpcCall) make(ctx context.Context, more ...grpc.CallOption) error {
	return c.conn.Invoke(ctx, c.method, c.args, c.reply, append(more, c.opts...)...)
}

// apart returns the same call with a reply of its own, for one that goes on when its caller does not wait.
func (c rpcCall) apart() rpcCall {
	c.reply, c.opts = c.reply.(proto.Message).ProtoReflect().New().Interface(), nil
	return c
}

// set has that happen to each call from now on; nil: nothing.
func (w *wire) set(f fault) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = f
	return nil
}

// Invoke implements grpc.ClientConnInterface.
func (w *wire) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	w.mu.Lock()
	f := w.fault
	w.mu.Unlock()
	c := rpcCall{w.ClientConn, method, args, reply, opts}
	if f == nil {
		return c.make(ctx)
	}
	return f(ctx, c)
}

// by makes calls over another connection.
func by(conn grpc.ClientConnInterface) fault {
	return func(ctx context.Context, c rpcCall) error {
		c.conn = conn
		return c.make(ctx)
	}
}

// lost is what the connection's end looks like to a call that is under way: it was done, and its caller does not know.
func lost(ctx context.Context, c rpcCall) error {
	_ = c.make(ctx)
	proto.Reset(c.reply.(proto.Message))
	return status.Error(codes.Unavailable, "error reading from server: EOF")
}

// hang lets no call through.
func hang(ctx context.Context, _ rpcCall) error {
	<-ctx.Done()
	return status.FromContextError(ctx.Err()).Err()
}

// slow lets a call through after a time, if its caller still waits.
func slow(by time.Duration) fault {
	return func(ctx context.Context, c rpcCall) error {
		select {
		case <-time.After(by):
			return c.make(ctx)
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// twice lets a call through two times at once.
func (w *wire) twice(ctx context.Context, c rpcCall) error {
	second := c.apart()
	w.calls.Go(func() { _ = second.make(context.WithoutCancel(ctx)) })
	return c.make(ctx)
}

// late lets a call through after a time, whoever waits.
func (w *wire) late(after time.Duration) fault {
	return func(ctx context.Context, c rpcCall) error {
		behind, answer := c.apart(), make(chan error, 1) // there is one
		w.calls.Go(func() {
			<-time.After(after)
			answer <- behind.make(context.WithoutCancel(ctx))
		})
		select {
		case err := <-answer:
			proto.Merge(c.reply.(proto.Message), behind.reply.(proto.Message))
			return err
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// garbled has each answer arrive as bytes that are none.
func garbled(ctx context.Context, c rpcCall) error {
	return c.make(ctx, grpc.ForceCodec(noise{}))
}

// noise is a codec that hears nothing but noise.
type noise struct{}

func (noise) Name() string                  { return "proto" }
func (noise) Marshal(v any) ([]byte, error) { return proto.Marshal(v.(proto.Message)) }
func (noise) Unmarshal(_ []byte, v any) error {
	return proto.Unmarshal([]byte{0xff, 0xff, 0xff}, v.(proto.Message))
}
