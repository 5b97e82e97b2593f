package hathora

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/attempts"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

const (
	kind         = "hathora"
	version      = "1"
	pollInterval = 2 * time.Second
	// maxBootstrap is what a room's configuration may have, in characters, which are never more than the bytes.
	maxBootstrap = 10_000
)

// Provider implements provider.Provider. It is safe for concurrent use.
type Provider struct {
	cfg    Config
	client *client
	book   attempts.Book
}

var _ provider.Provider = (*Provider)(nil)

// New returns a Provider. It calls nobody yet.
func New(cfg Config) (*Provider, error) {
	if cfg.URL == "" {
		cfg.URL = DefaultURL
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	c, err := newClient(cfg)
	if err != nil {
		return nil, fmt.Errorf("hathora.url: %w", err)
	}
	return &Provider{cfg: cfg, client: c}, nil
}

// Describe implements provider.Provider.
func (p *Provider) Describe(_ context.Context, req *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	return hostapi.Describe(req, p.cfg.Builds, p.cfg.Regions, &providerv1.DescribeResponse{
		Kind: kind, Version: version, MaxBootstrapBytes: maxBootstrap, PollInterval: durationpb.New(pollInterval),
	})
}

// Allocate implements provider.Provider. A room's id is unique for ever, so that a repeat finds the first one's room.
func (p *Provider) Allocate(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
	build, err := hostapi.Lookup("build", p.cfg.Builds, req.GetBuild())
	if err != nil {
		return nil, err
	}
	region, err := hostapi.Lookup("region", p.cfg.Regions, req.GetRegion())
	if err != nil {
		return nil, err
	}
	unlock, err := p.book.Begin(ctx, req.GetAttemptId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	id := roomID(req.GetDeployment(), req.GetAttemptId())
	conn, err := p.client.createRoom(ctx, build.App, id, order{Region: region, RoomConfig: string(req.GetBootstrap()), DeploymentID: build.Deployment})
	if provider.ReasonOf(err) == provider.Invalid { // also what is said of an id that is taken
		return p.taken(ctx, build.App, id, req, err)
	}
	if err != nil {
		return nil, err
	}
	state, ok := stateOf(conn.Status)
	if !ok || conn.RoomID != id {
		return nil, hostapi.Senseless("Hathora", p.client.create, fmt.Sprintf("room %q with status %q", hostapi.Clean(conn.RoomID), hostapi.Clean(conn.Status)))
	}
	return &providerv1.AllocateResponse{Server: &providerv1.Server{
		AttemptId: req.GetAttemptId(), ExternalId: externalID(build.App, id), State: state, Region: req.GetRegion(), Endpoints: endpointsOf(conn),
	}}, nil
}

// taken returns the room that an earlier call made; if there is none, the call was refused for another reason.
func (p *Provider) taken(ctx context.Context, app, id string, req *providerv1.AllocateRequest, refused error) (*providerv1.AllocateResponse, error) {
	s, err := p.server(ctx, app, id, req.GetAttemptId())
	switch {
	case err == nil && s.GetState() != providerv1.ServerState_SERVER_STATE_EXITED:
		s.Region = req.GetRegion()
		return &providerv1.AllocateResponse{Server: s}, nil
	case err == nil, provider.ReasonOf(err) == provider.NotFound:
		return nil, refused
	default: // nobody knows whether it is there
		return nil, provider.RetryAfter(provider.Failure(provider.Ambiguous, "%s; and whether the room is there cannot be told: %s",
			status.Convert(refused).Message(), status.Convert(err).Message()), provider.RetryAfterOf(err))
	}
}

// externalID has the application too, without which a room cannot be asked for.
func externalID(app, room string) string { return app + "/" + room }

// server looks a room up.
func (p *Provider) server(ctx context.Context, app, id, attempt string) (*providerv1.Server, error) {
	_, state, err := p.room(ctx, app, id)
	if err != nil {
		return nil, err
	}
	s := &providerv1.Server{AttemptId: attempt, ExternalId: externalID(app, id), State: state}
	if state != providerv1.ServerState_SERVER_STATE_RUNNING {
		return s, nil
	}
	conn, err := p.client.connection(ctx, app, id)
	if provider.ReasonOf(err) == provider.NotFound { // it ended meanwhile
		s.State = providerv1.ServerState_SERVER_STATE_EXITED
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	state, ok := stateOf(conn.Status)
	if !ok || conn.RoomID != id {
		return nil, hostapi.Senseless("Hathora", p.client.connect, fmt.Sprintf("room %q with status %q", hostapi.Clean(conn.RoomID), hostapi.Clean(conn.Status)))
	}
	s.State, s.Endpoints = state, endpointsOf(conn)
	return s, nil
}

// room looks a room itself up.
func (p *Provider) room(ctx context.Context, app, id string) (room, providerv1.ServerState, error) {
	r, err := p.client.room(ctx, app, id)
	state, ok := stateOf(r.Status)
	if err == nil && (!ok || r.RoomID != id) {
		err = hostapi.Senseless("Hathora", p.client.info, fmt.Sprintf("room %q with status %q", hostapi.Clean(r.RoomID), hostapi.Clean(r.Status)))
	}
	return r, state, err
}

// apps are those of an external id, or all where there is none.
func (p *Provider) apps(external string) []string {
	if app, _, ok := strings.Cut(external, "/"); ok {
		return []string{app}
	}
	var all []string
	for _, b := range p.cfg.Builds {
		all = append(all, b.App)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Get implements provider.Provider.
func (p *Provider) Get(ctx context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	id := roomID(req.GetDeployment(), req.GetAttemptId())
	for _, app := range p.apps(req.GetExternalId()) {
		s, err := p.server(ctx, app, id, req.GetAttemptId())
		if provider.ReasonOf(err) == provider.NotFound {
			continue
		}
		if err != nil {
			return nil, err
		}
		return &providerv1.GetResponse{Server: s}, nil
	}
	return nil, provider.Failure(provider.NotFound, "Hathora has no room %s", id)
}

// Release implements provider.Provider.
func (p *Provider) Release(ctx context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	unlock, err := p.book.End(ctx, req.GetAttemptId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	id := roomID(req.GetDeployment(), req.GetAttemptId())
	for _, app := range p.apps(req.GetExternalId()) {
		if err := p.end(ctx, app, id); err != nil {
			return nil, err
		}
	}
	return &providerv1.ReleaseResponse{State: providerv1.ServerState_SERVER_STATE_EXITED}, nil
}

// end ends a room with its process, and then, where that was not its own or is not there yet, the room alone.
func (p *Provider) end(ctx context.Context, app, id string) error {
	if err := p.stop(ctx, app, id); err != nil && provider.ReasonOf(err) != provider.NotFound {
		return err
	}
	if err := p.client.destroyRoom(ctx, app, id); err != nil && provider.ReasonOf(err) != provider.NotFound {
		return err
	}
	return nil
}

// stop ends the process that a room is on. If the room alone were destroyed, its process would be there for the next room: one that hangs would get that, and never read
// its configuration. It is stopped while the room is on it, and has no place for another one then. That ends the room as well, so that a repeat finds it on none, and
// stops nothing. What remains is a room that its own server destroys between the look and the stop: the next room may be on the process then, and is lost. And a room that
// gets its process only between the look and its end leaves that to the next one.
func (p *Provider) stop(ctx context.Context, app, id string) error {
	r, state, err := p.room(ctx, app, id)
	if err != nil || state == providerv1.ServerState_SERVER_STATE_EXITED || r.on() == "" {
		return err
	}
	on, err := p.client.process(ctx, app, r.on())
	if err != nil || on.RoomsPerProcess != 1 { // other rooms may be on it
		return err
	}
	return p.client.stopProcess(ctx, app, on.ProcessID)
}

// Close ends the connections to the host.
func (p *Provider) Close(context.Context) error {
	p.client.api.Close()
	return nil
}
