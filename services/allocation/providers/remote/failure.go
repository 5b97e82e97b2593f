package remote

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

const (
	// maxWords bounds what a plugin says for people, in bytes; more is cut off.
	maxWords = 1024
	// maxRetryAfter bounds the time for which a plugin asks for patience.
	maxRetryAfter = time.Hour
)

type sentKey struct{}

// withSent returns a context whose call says in the returned flag whether any of it may have been sent.
func withSent(ctx context.Context) (context.Context, *atomic.Bool) {
	sent := new(atomic.Bool)
	return context.WithValue(ctx, sentKey{}, sent), sent
}

// watcher sees which calls got onto a connection, and when a connection ends.
type watcher struct{ lost chan<- struct{} }

// TagRPC implements stats.Handler.
func (watcher) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler. The headers of a call are the first that goes out of it.
func (watcher) HandleRPC(ctx context.Context, event stats.RPCStats) {
	if _, out := event.(*stats.OutHeader); !out {
		return
	}
	if sent, ok := ctx.Value(sentKey{}).(*atomic.Bool); ok {
		sent.Store(true)
	}
}

// TagConn implements stats.Handler.
func (watcher) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (w watcher) HandleConn(_ context.Context, event stats.ConnStats) {
	if _, ended := event.(*stats.ConnEnd); !ended {
		return
	}
	select {
	case w.lost <- struct{}{}:
	default:
	}
}

// failure makes a failure of a call's error: the plugin's own as it is, UNAVAILABLE where for certain nothing reached the plugin, else AMBIGUOUS.
func (p *Provider) failure(method string, err error, sent bool) error {
	st := status.Convert(err)
	switch reason := provider.ReasonOf(err); {
	case !sent:
		return provider.Failure(provider.Unavailable, "plugin %s was not reached: %s", p.name, words(st.Message()))
	case reason != provider.Ambiguous:
		return provider.RetryAfter(provider.Failure(reason, "%s", words(st.Message())), min(maxRetryAfter, provider.RetryAfterOf(err)))
	case st.Code() == codes.DeadlineExceeded:
		return provider.Failure(provider.Ambiguous, "plugin %s did not answer %s in time", p.name, method)
	case st.Code() == codes.Canceled:
		return provider.Failure(provider.Ambiguous, "the call of %s to plugin %s was cut off", method, p.name)
	case st.Code() == codes.Unimplemented:
		return provider.Failure(provider.Ambiguous, "plugin %s does not serve %s of %s", p.name, method, providerv1.ProviderService_ServiceDesc.ServiceName)
	default:
		return provider.Failure(provider.Ambiguous, "plugin %s failed in %s without a reason: %s: %s", p.name, method, st.Code(), words(st.Message()))
	}
}

// words makes what a plugin says fit for messages.
func words(said string) string {
	said = strings.ToValidUTF8(said, "?")
	if len(said) > maxWords {
		said = strings.ToValidUTF8(said[:maxWords], "") + "…"
	}
	return said
}
