package gamelift

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/gamelift"
	"github.com/aws/aws-sdk-go-v2/service/gamelift/types"

	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/attempts"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

const (
	host = "GameLift"
	// maxConns is how many connections there are at once. More calls wait for one.
	maxConns = 64

	dialTimeout      = 5 * time.Second
	handshakeTimeout = 5 * time.Second
	idleTimeout      = 90 * time.Second

	// createRate is the published limit of CreateGameSession.
	createRate = 50
	// callRate is half of what an account may do of most other calls by default: it may have other users.
	callRate = 250

	// maxRegions is of how many Regions the limits are remembered: more than AWS has.
	maxRegions = 100

	// reread is how soon a credentials file is read anew.
	reread = time.Minute
)

// client calls the API, in any Region.
type client struct {
	api         *gamelift.Client
	credentials aws.CredentialsProvider
	http        *http.Client
	// limits has the operations of each Region.
	limits attempts.Recent[*operations]
}

// operations are the kinds of calls to a Region, each of which counts and throttles by itself.
type operations struct {
	start, placement, stop, create, session, sessions, terminate, queues, alias *hostapi.Operation
}

func newOperations() *operations {
	return &operations{
		start: hostapi.Write("place a game session", callRate), stop: hostapi.Write("stop a placement", callRate),
		create: hostapi.Write("create a game session", createRate), terminate: hostapi.Write("end a game session", callRate),
		placement: hostapi.Read("look up a placement", callRate), session: hostapi.Read("look up a game session", callRate),
		sessions: hostapi.Read("list game sessions", callRate), queues: hostapi.Read("look up a queue", callRate), alias: hostapi.Read("look up an alias", callRate),
	}
}

// in returns the operations of a Region.
func (c *client) in(region string) (ops *operations) {
	c.limits.Update(region, func(known **operations) {
		if *known == nil {
			*known = newOperations()
		}
		ops = *known
	})
	return ops
}

func newClient(ctx context.Context, cfg Config, pings http.HTTP2Config) (*client, aws.Config, error) {
	c := &client{limits: attempts.Recent[*operations]{Max: maxRegions}}
	options := []func(*config.LoadOptions) error{
		config.WithRegion(awsRegions(cfg)[0]), // each call names its own
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
			t.TLSHandshakeTimeout, t.IdleConnTimeout, t.MaxConnsPerHost, t.MaxIdleConnsPerHost = handshakeTimeout, idleTimeout, maxConns, maxConns
			t.HTTP2 = &pings
		}).WithDialerOptions(func(d *net.Dialer) { d.Timeout = dialTimeout })),
	}
	if cfg.CredentialsFile != "" {
		options = append(options, config.WithCredentialsProvider(aws.NewCredentialsCache(credentialsFile(cfg.CredentialsFile))))
	}
	loaded, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, aws.Config{}, fmt.Errorf("gamelift: the configuration of AWS: %w", err)
	}
	c.http = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if built, ok := loaded.HTTPClient.(*awshttp.BuildableClient); ok {
		c.http.Transport = plainBodies{built.GetTransport()} // with what the environment adds, such as authorities
	}
	loaded.HTTPClient = c.http
	// Whoever allocates tries again, elsewhere first, and looks before: a client that does so by itself would hold the call up and hide a throttle. What fetches
	// credentials is made by now, and does try again.
	loaded.Retryer = func() aws.Retryer { return aws.NopRetryer{} }
	c.credentials = loaded.Credentials
	c.api = gamelift.NewFromConfig(loaded, func(o *gamelift.Options) {
		if cfg.URL != "" {
			o.BaseEndpoint = &cfg.URL
		}
	})
	return c, loaded, nil
}

// credentialsFile has credentials, which are read anew each minute.
type credentialsFile string

// Retrieve implements aws.CredentialsProvider.
func (f credentialsFile) Retrieve(ctx context.Context) (aws.Credentials, error) {
	shared, err := config.LoadSharedConfigProfile(ctx, "default", func(o *config.LoadSharedConfigOptions) {
		o.CredentialsFiles, o.ConfigFiles = []string{string(f)}, []string{}
	})
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("%s: its profile default cannot be read: %s", string(f), hostapi.Clean(err.Error()))
	}
	if !shared.Credentials.HasKeys() {
		return aws.Credentials{}, fmt.Errorf("%s: its profile default has no aws_access_key_id with aws_secret_access_key", string(f))
	}
	found := shared.Credentials
	found.CanExpire, found.Expires = true, time.Now().Add(reread)
	return found, nil
}

// authorized makes sure that there are credentials, so that a call without any is not taken for one that went wrong on the way.
func (c *client) authorized(ctx context.Context, op *hostapi.Operation) error {
	_, err := c.credentials.Retrieve(ctx)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return hostapi.Unanswered(host, op, ctx.Err(), false)
	default:
		return noCredentials(op, err)
	}
}

// call makes a call to a Region.
func call[In, Out any](
	ctx context.Context, c *client, op *hostapi.Operation, region string, in *In,
	do func(context.Context, *In, ...func(*gamelift.Options)) (*Out, error), options ...func(*gamelift.Options),
) (*Out, error) {
	if err := op.Wait(ctx); err != nil {
		return nil, err
	}
	if err := c.authorized(ctx, op); err != nil {
		return nil, err
	}
	var sent atomic.Bool // on a connection: from then on GameLift may have it
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }})
	out, err := do(traced, in, append(options, func(o *gamelift.Options) { o.Region = region })...)
	if err != nil {
		return nil, explain(op, err, sent.Load())
	}
	return out, nil
}

func (c *client) startPlacement(ctx context.Context, region string, in *gamelift.StartGameSessionPlacementInput) (*types.GameSessionPlacement, error) {
	op := c.in(region).start
	out, err := call(ctx, c, op, region, in, c.api.StartGameSessionPlacement)
	if err != nil {
		return nil, named(err)
	}
	return checkedPlacement(op, out.GameSessionPlacement, *in.PlacementId)
}

func (c *client) describePlacement(ctx context.Context, region, id string) (*types.GameSessionPlacement, error) {
	op := c.in(region).placement
	out, err := call(ctx, c, op, region, &gamelift.DescribeGameSessionPlacementInput{PlacementId: &id}, c.api.DescribeGameSessionPlacement)
	if err != nil {
		return nil, err
	}
	return checkedPlacement(op, out.GameSessionPlacement, id)
}

func (c *client) stopPlacement(ctx context.Context, region, id string) (*types.GameSessionPlacement, error) {
	op := c.in(region).stop
	out, err := call(ctx, c, op, region, &gamelift.StopGameSessionPlacementInput{PlacementId: &id}, c.api.StopGameSessionPlacement)
	if err != nil {
		return nil, err
	}
	return checkedPlacement(op, out.GameSessionPlacement, id)
}

func (c *client) createSession(ctx context.Context, region string, in *gamelift.CreateGameSessionInput) (*types.GameSession, error) {
	op := c.in(region).create
	out, err := call(ctx, c, op, region, in, c.api.CreateGameSession)
	if err != nil {
		return nil, named(err)
	}
	return checkedSession(op, out.GameSession, "")
}

// describe asks for game sessions.
func (c *client) describe(ctx context.Context, op *hostapi.Operation, region string, in *gamelift.DescribeGameSessionsInput) (*gamelift.DescribeGameSessionsOutput, error) {
	var body bytes.Buffer
	out, err := call(ctx, c, op, region, in, c.api.DescribeGameSessions, copyBody(&body))
	if err != nil {
		return nil, err
	}
	if len(out.GameSessions) == 0 && !hasList(body.Bytes(), "GameSessions") {
		return nil, hostapi.Senseless(host, op, "no list of game sessions, and no refusal")
	}
	return out, nil
}

// describeSession asks for a session by its ARN. That there is none GameLift says with an error or with an empty list.
func (c *client) describeSession(ctx context.Context, region, arn string) (*types.GameSession, error) {
	op := c.in(region).session
	out, err := c.describe(ctx, op, region, &gamelift.DescribeGameSessionsInput{GameSessionId: &arn})
	if err != nil {
		return nil, err
	}
	if len(out.GameSessions) == 0 {
		return nil, provider.Failure(provider.NotFound, "GameLift: %s: there is none in %s", op.Name, region)
	}
	return checkedSession(op, &out.GameSessions[0], arn)
}

// listSessions asks for a page of a fleet's sessions with a status.
func (c *client) listSessions(ctx context.Context, region, fleet string, status types.GameSessionStatus, page string) (*gamelift.DescribeGameSessionsOutput, error) {
	filter, in := string(status), &gamelift.DescribeGameSessionsInput{FleetId: &fleet}
	in.StatusFilter = &filter
	if page != "" {
		in.NextToken = &page
	}
	return c.describe(ctx, c.in(region).sessions, region, in)
}

func (c *client) terminateSession(ctx context.Context, region, arn string, mode types.TerminationMode) (*types.GameSession, error) {
	op := c.in(region).terminate
	out, err := call(ctx, c, op, region, &gamelift.TerminateGameSessionInput{GameSessionId: &arn, TerminationMode: mode}, c.api.TerminateGameSession)
	if err != nil {
		return nil, err
	}
	return checkedSession(op, out.GameSession, arn)
}

// destinations are the ARNs of the fleets and aliases of a queue.
func (c *client) destinations(ctx context.Context, region, queue string) ([]string, error) {
	out, err := call(ctx, c, c.in(region).queues, region, &gamelift.DescribeGameSessionQueuesInput{Names: []string{queue}}, c.api.DescribeGameSessionQueues)
	if err != nil {
		return nil, err
	}
	var arns []string
	for _, q := range out.GameSessionQueues {
		for _, d := range q.Destinations {
			arns = append(arns, aws.ToString(d.DestinationArn))
		}
	}
	return arns, nil
}

// resolve returns the id of the fleet that an alias points to.
func (c *client) resolve(ctx context.Context, region, alias string) (string, error) {
	op := c.in(region).alias
	out, err := call(ctx, c, op, region, &gamelift.ResolveAliasInput{AliasId: &alias}, c.api.ResolveAlias)
	if err != nil {
		return "", err
	}
	if aws.ToString(out.FleetId) == "" {
		return "", hostapi.Senseless(host, op, "no fleet in it")
	}
	return *out.FleetId, nil
}
