package gameserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// errJoined is why there is no connection yet: now there may be one.
var errJoined = errors.New("the server had to join its pool again, and did")

// unjoined is why a server that has matches could not join its pool again. The key may be known again before they are over, such as from a backup.
type unjoined struct{ error }

func (e unjoined) Unwrap() error { return e.error }

// pool is a warm pool that the server joins.
type pool struct {
	name string
	key  bootstrap.Secret
	body []byte // of each call to join
}

// newPool returns the pool of a document; nil if it is for none.
func newPool(doc *bootstrap.Document) (*pool, error) {
	p := doc.Pool
	if p == nil {
		return nil, nil
	}
	req := &gameserverv1.JoinPoolRequest{
		Pool: p.Name, Namespace: doc.Namespace, Name: p.Server, Capacity: p.Capacity, Builds: p.Builds, Region: p.Region, Labels: p.Labels,
	}
	for _, e := range p.Endpoints {
		protocol := typev1.Protocol_PROTOCOL_TCP
		if e.Protocol == "udp" {
			protocol = typev1.Protocol_PROTOCOL_UDP
		}
		req.Endpoints = append(req.Endpoints, &typev1.Endpoint{Name: e.Name, Host: e.Host, Port: uint32(e.Port), Protocol: protocol})
	}
	body, err := protojson.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("the pool of the bootstrap document: %w", err)
	}
	return &pool{name: p.Name, key: p.Key, body: body}, nil
}

// joinPool makes the server one of its pool, if it has one. It tries until Berth refuses for good, or ctx ends.
func (h *Host) joinPool(ctx context.Context) error {
	if h.pool == nil {
		return nil
	}
	err := h.insist(ctx, "joining the pool", func(ctx context.Context) error { return h.join(ctx) })
	if err != nil {
		h.http.CloseIdleConnections() // nothing else uses them yet, and there will be no Close
	}
	return err
}

// join asks once.
func (h *Host) join(ctx context.Context) error {
	resp, answer, err := h.post(ctx, "/v1/pools/"+url.PathEscape(h.pool.name)+":join", h.pool.body, func(header http.Header) { //nolint:bodyclose // post closes it
		header.Set("Authorization", "Bearer "+h.pool.key.Reveal())
	})
	switch {
	case err != nil:
		return fmt.Errorf("join of the pool: %w", err)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("join of the pool: %w", claimError(resp, answer))
	}
	joined := joinAnswer{new(gameserverv1.JoinPoolResponse)}
	if err := h.takeAnswer(answer, joined, "join of the pool"); err != nil {
		return err
	}
	h.log.Info("joined the pool", "server_id", joined.GetServer().GetId())
	if h.doc.Server == "" { // the first time, before anybody else looks; it stays the same
		h.doc.Server = joined.GetServer().GetId()
	}
	return nil
}

// joinAnswer is an answer with tokens that does not say when to refresh them.
type joinAnswer struct{ *gameserverv1.JoinPoolResponse }

// GetRefreshTime implements pair.
func (joinAnswer) GetRefreshTime() *timestamppb.Timestamp { return nil }

// mustJoin reports whether the gateway lets nobody in with these tokens, or the server was away for so long that it has left its pool. Of what is refused
// after the upgrade the close code does not say why.
func (h *Host) mustJoin(err error) bool {
	var closed *CloseError
	if errors.As(err, &closed) {
		return closed.Code == linkv1.CloseCode_CLOSE_CODE_UNAUTHENTICATED
	}
	return refusedFor(err, reasonExpired)
}

// rejoin joins the pool again, and returns errJoined, or why that has failed.
func (h *Host) rejoin(ctx context.Context) error {
	if err := h.join(ctx); err != nil {
		return err
	}
	if !h.run.refreshed {
		h.run.wait = backoff{} // but if the gateway refuses at once again, it is not asked all the time
	}
	h.run.refreshed = true
	return errJoined
}
