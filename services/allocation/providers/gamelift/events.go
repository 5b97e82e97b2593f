package gamelift

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/gamelift/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
)

const (
	// longPoll is how long SQS waits for an event, and batch how many it hands out at once: its limits.
	longPoll = 20 * time.Second
	batch    = 10
	// receiveTimeout is how long a call may take that waits.
	receiveTimeout = longPoll + 10*time.Second
	deleteTimeout  = 10 * time.Second
	// minPause and maxPause are between calls that fail.
	minPause = time.Second
	maxPause = time.Minute
)

// listener reads the events of placements from SQS. Its goroutine ends with close, which waits for it.
type listener struct {
	sqs    *sqs.Client
	url    string
	memory *memory
	log    *slog.Logger
	stop   context.CancelFunc
	all    sync.WaitGroup
}

func listen(cfg Events, loaded aws.Config, m *memory, log *slog.Logger) *listener {
	ctx, stop := context.WithCancel(context.Background())
	l := &listener{url: cfg.QueueURL, memory: m, log: log, stop: stop, sqs: sqs.NewFromConfig(loaded, func(o *sqs.Options) {
		o.Region = cfg.region()
		if u, err := url.Parse(cfg.QueueURL); err == nil {
			o.BaseEndpoint = aws.String(u.Scheme + "://" + u.Host)
		}
	})}
	l.all.Go(func() { l.run(ctx) })
	return l
}

// close ends the listener, and waits until the context ends.
func (l *listener) close(ctx context.Context) error {
	l.stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.all.Wait()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run takes events until the context ends. What fails is tried again, ever less often; servers are asked about meanwhile, at the pace of the sweep.
func (l *listener) run(ctx context.Context) {
	pause := minPause
	for ctx.Err() == nil {
		err := l.take(ctx)
		if err == nil {
			pause = minPause
			continue
		}
		if ctx.Err() != nil {
			return
		}
		l.log.WarnContext(ctx, "the events of GameLift cannot be read; trying again", "queue_url", l.url, "pause", pause, "error", hostapi.Clean(err.Error()))
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		pause = min(2*pause, maxPause)
	}
}

// take waits for events, notes what they say, and deletes them.
func (l *listener) take(ctx context.Context) error {
	receiving, cancel := context.WithTimeout(ctx, receiveTimeout)
	defer cancel()
	out, err := l.sqs.ReceiveMessage(receiving, &sqs.ReceiveMessageInput{QueueUrl: &l.url, MaxNumberOfMessages: batch, WaitTimeSeconds: int32(longPoll / time.Second)})
	if err != nil || len(out.Messages) == 0 {
		return err
	}
	var done []sqstypes.DeleteMessageBatchRequestEntry
	for i, m := range out.Messages {
		if e, ok := parseEvent(aws.ToString(m.Body)); ok {
			l.memory.put(e.Detail.PlacementID, e.sighting(), false)
		}
		done = append(done, sqstypes.DeleteMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), ReceiptHandle: m.ReceiptHandle})
	}
	deleting, cancelDelete := context.WithTimeout(ctx, deleteTimeout)
	defer cancelDelete()
	_, err = l.sqs.DeleteMessageBatch(deleting, &sqs.DeleteMessageBatchInput{QueueUrl: &l.url, Entries: done}) // one that is left comes again, and says nothing new
	return err
}

// event is a "GameLift Queue Placement Event".
type event struct {
	Region string `json:"region"`
	Detail struct {
		Type           string    `json:"type"`
		PlacementID    string    `json:"placementId"`
		Port           eventPort `json:"port"`
		GameSessionArn string    `json:"gameSessionArn"`
		IPAddress      string    `json:"ipAddress"`
		DNSName        string    `json:"dnsName"`
	} `json:"detail"`
}

// eventPort is a number, which the documentation's example has as a string.
type eventPort int32

// UnmarshalJSON implements json.Unmarshaler.
func (p *eventPort) UnmarshalJSON(raw []byte) error {
	n, err := strconv.ParseInt(strings.Trim(string(raw), `"`), 10, 32)
	*p = eventPort(n)
	return err
}

// placementStates are the states that events tell of.
var placementStates = map[string]types.GameSessionPlacementState{
	"PlacementFulfilled": types.GameSessionPlacementStateFulfilled, "PlacementCancelled": types.GameSessionPlacementStateCancelled,
	"PlacementTimedOut": types.GameSessionPlacementStateTimedOut, "PlacementFailed": types.GameSessionPlacementStateFailed,
}

// parseEvent reads an event, as EventBridge sends it, or in SNS' envelope; false: it is none of a server of Berth's.
func parseEvent(body string) (event, bool) {
	var envelope struct{ Message string }
	if json.Unmarshal([]byte(body), &envelope) == nil && envelope.Message != "" {
		body = envelope.Message
	}
	var e event
	if json.Unmarshal([]byte(body), &e) != nil {
		return event{}, false
	}
	_, known := placementStates[e.Detail.Type]
	complete := e.Detail.Type != "PlacementFulfilled" || e.Detail.GameSessionArn != ""
	return e, known && complete && regionName.MatchString(e.Region) && ids.AttemptInstance(e.Detail.PlacementID) != ""
}

func (e event) sighting() sighting {
	state, failure, message := placementState(placementStates[e.Detail.Type])
	port := int32(e.Detail.Port)
	return sighting{region: e.Region, session: e.Detail.GameSessionArn, server: &providerv1.Server{
		AttemptId: e.Detail.PlacementID, ExternalId: placementID(e.Region, e.Detail.PlacementID), State: state, Message: message, Failure: failure,
		Endpoints: endpointsOf(&e.Detail.DNSName, &e.Detail.IPAddress, &port),
	}}
}
