package messages_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/freeport"
	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/messages"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// records are instances by id.
type records struct {
	mu    sync.Mutex
	all   map[string]*instance.Instance
	reads int
}

func (r *records) Load(_ context.Context, id string, _ instance.Needs) (instance.Loaded, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	return instance.Loaded{Instance: r.all[id]}, nil
}

func linked(gateway string) *instance.Instance {
	return &instance.Instance{Namespace: "eu", State: instance.Running, Link: &instance.Link{Connected: true, GatewayID: gateway}}
}

// world is an exchange that runs, and the other ends of its channels.
type world struct {
	*testing.T
	store    *redisx.Store
	exchange *messages.Exchange
	records  *records
	sequence int64
}

func start(t *testing.T, store *redisx.Store) *world {
	t.Helper()
	w := &world{T: t, store: store, records: &records{all: map[string]*instance.Instance{}}}
	w.exchange = messages.New(messages.Config{Store: store, Instances: w.records, Log: slog.New(slog.DiscardHandler), Metrics: messages.NewMetrics(prometheus.NewRegistry())})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.exchange.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return w
}

// says publishes messages of servers as a gateway does, by the generated code.
func (w *world) says(gateway string, all ...*eventv1.ServerMessage) {
	w.Helper()
	raw, err := proto.Marshal(&eventv1.ServerMessages{GatewayId: gateway, Messages: all})
	if err != nil {
		w.Fatal(err)
	}
	channel := redisx.MessageChannel(w.store.Partition(all[0].GetInstanceId()))
	if err := w.store.PublishAll(context.Background(), map[string][]byte{channel: raw}); err != nil {
		w.Fatal(err)
	}
}

func (w *world) message(id, topic string) *eventv1.ServerMessage {
	w.sequence++
	return &eventv1.ServerMessage{Namespace: "eu", InstanceId: id, ServerId: "server", Sequence: w.sequence, Topic: topic, Data: []byte{1}}
}

// watch returns what arrives, as "instance topic".
func (w *world) watch(want messages.Watch) (<-chan string, func()) {
	w.Helper()
	got := make(chan string, 100)
	want.Take = func(m messages.Message) { got <- fmt.Sprintf("%s %s", m.Instance, m.Topic) }
	stop, err := w.exchange.Watch(context.Background(), want)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(stop)
	return got, stop
}

// next returns the next one, or fails after a long time.
func next[T any](t *testing.T, what string, from <-chan T) (got T) {
	t.Helper()
	select {
	case got = <-from:
	case <-time.After(time.Minute):
		t.Fatalf("waited in vain for %s", what)
	}
	return got
}

func (w *world) arrive(got <-chan string, want ...string) {
	w.Helper()
	for _, m := range want {
		if g := next(w.T, m, got); g != m {
			w.Errorf("got %q, want %q", g, m)
		}
	}
	if len(got) > 0 {
		w.Errorf("and %q", <-got)
	}
}

func TestMessagesOfServersArriveInOrderAtThoseWhoWantThem(t *testing.T) {
	redistest.Each(t, func(t *testing.T, store *redisx.Store) {
		w := start(t, store)
		all, _ := w.watch(messages.Watch{Namespace: "eu"})
		ones, _ := w.watch(messages.Watch{Namespace: "eu", Instances: []string{"a"}})
		scores, _ := w.watch(messages.Watch{Namespace: "eu", Topics: []string{"score"}})
		others, _ := w.watch(messages.Watch{Namespace: "us"})
		foreign := w.message("a", "theirs")
		foreign.Namespace = "asia"
		w.says("gw", w.message("a", "score"), w.message("a", "chat"), foreign, w.message("a", "end"))
		w.arrive(all, "a score", "a chat", "a end")
		w.says("gw", w.message("b", "score"))
		w.arrive(all, "b score")
		w.arrive(ones, "a score", "a chat", "a end")
		w.arrive(scores, "a score", "b score")
		w.arrive(others)
	})
}

// While a server moves to another gateway, what the old one still had may come behind what the new one sent. It is lost then, and nothing comes twice.
func TestAMessageThatComesLateIsDropped(t *testing.T) {
	w := start(t, redistest.Embedded(t))
	got, _ := w.watch(messages.Watch{Namespace: "eu"})
	first, second, third := w.message("a", "1"), w.message("a", "2"), w.message("a", "3")
	w.says("old", first)
	w.says("new", third)
	w.says("old", second, first)
	w.says("new", third)
	another := w.message("a", "of the next server")
	another.ServerId, another.Sequence = "another", 1
	w.says("new", another)
	w.arrive(got, "a 1", "a 3", "a of the next server")
}

// gateway listens as a life of a gateway does, and returns what backends say, as "instance topic data".
func (w *world) gateway(id string) <-chan string {
	w.Helper()
	sub := w.store.SubscribeTo(context.Background(), redisx.GatewayChannel(id))
	if _, err := sub.Receive(context.Background()); err != nil {
		w.Fatal(err)
	}
	got := make(chan string, 10_000)
	var running sync.WaitGroup
	running.Go(func() {
		for m := range sub.Channel() {
			var e eventv1.Envelope
			if err := proto.Unmarshal([]byte(m.Payload), &e); err != nil {
				w.Error(err)
			}
			for _, b := range e.GetMessages() {
				got <- fmt.Sprintf("%s %s %s", b.GetInstanceId(), b.GetTopic(), b.GetData())
			}
		}
	})
	w.Cleanup(func() { _ = sub.Close(); running.Wait() })
	return got
}

func (w *world) send(namespace, id, topic, data string) error {
	return w.exchange.Send(context.Background(), namespace, id, topic, []byte(data))
}

func TestMessagesGoToTheGatewayOfTheirInstanceInOrder(t *testing.T) {
	redistest.Each(t, func(t *testing.T, store *redisx.Store) {
		w := start(t, store)
		w.records.all["a"], w.records.all["b"] = linked("one"), linked("two")
		one, two := w.gateway("one"), w.gateway("two")
		const count = 1000
		for n := range count {
			for _, id := range []string{"a", "b"} {
				if err := w.send("eu", id, "t", fmt.Sprint(n)); err != nil {
					t.Fatal(err)
				}
			}
		}
		for n := range count {
			w.arriveNext(one, fmt.Sprintf("a t %d", n))
			w.arriveNext(two, fmt.Sprintf("b t %d", n))
		}
	})
}

func (w *world) arriveNext(got <-chan string, want string) {
	w.Helper()
	if g := next(w.T, want, got); g != want {
		w.Fatalf("got %q, want %q", g, want)
	}
}

// A server that has moved is answered over its new gateway at once if it says something, without a read of its record.
func TestTheWayBackIsLearnedFromWhatAServerSays(t *testing.T) {
	w := start(t, redistest.Embedded(t))
	w.records.all["a"] = linked("one")
	two := w.gateway("two")
	got, _ := w.watch(messages.Watch{Namespace: "eu"})
	if err := w.send("eu", "a", "to the old one", ""); err != nil {
		t.Fatal(err)
	}
	before := w.records.reads
	w.says("two", w.message("a", "moved"))
	w.arrive(got, "a moved")
	if err := w.send("eu", "a", "t", "back"); err != nil {
		t.Fatal(err)
	}
	w.arriveNext(two, "a t back")
	if before != 1 || w.records.reads != before {
		t.Errorf("%d reads, and then %d", before, w.records.reads)
	}
	if err := w.send("us", "a", "t", ""); !errs.Is(err, errs.InstanceUnknown) {
		t.Errorf("from another namespace: %v", err)
	}
}

func TestWhatNobodyCouldGetIsRefused(t *testing.T) {
	w := start(t, redistest.Embedded(t))
	away, over := linked("gw"), linked("gw")
	away.Link.Connected, over.State = false, instance.Ended
	w.records.all = map[string]*instance.Instance{"away": away, "over": over, "never": {Namespace: "eu"}, "theirs": linked("gw")}
	w.records.all["theirs"].Namespace = "us"
	for id, want := range map[string]errs.Reason{
		"away": errs.NotConnected, "over": errs.NotConnected, "never": errs.NotConnected, "theirs": errs.InstanceUnknown, "none": errs.InstanceUnknown,
	} {
		if err := w.send("eu", id, "t", ""); !errs.Is(err, want) {
			t.Errorf("%s: %v, want %s", id, err, want)
		}
	}
}

// subscribers counts those of all channels for messages.
func (w *world) subscribers() (n int64) {
	w.Helper()
	all, err := w.store.PubSubNumSub(context.Background(), redisx.MessageChannels()...).Result()
	if err != nil {
		w.Fatal(err)
	}
	for _, count := range all {
		n += count
	}
	return n
}

func (w *world) becomes(what string, reached func() bool) {
	w.Helper()
	for begin := time.Now(); !reached(); <-time.After(time.Millisecond) {
		if time.Since(begin) > time.Minute {
			w.Fatalf("waited in vain for %s", what)
		}
	}
}

// Who wants nothing does not read what all servers say.
func TestAChannelIsReadOnlyWhileSomebodyWantsIt(t *testing.T) {
	w := start(t, redistest.Open(t, redistest.Server(t)))
	for range 3 {
		if n := w.subscribers(); n != 0 {
			t.Fatalf("%d subscriptions before anybody wants anything", n)
		}
		one, stopOne := w.watch(messages.Watch{Namespace: "eu", Instances: []string{"a"}})
		if n := w.subscribers(); n != 1 {
			t.Errorf("%d subscriptions for one instance", n)
		}
		all, stopAll := w.watch(messages.Watch{Namespace: "eu"})
		if n := w.subscribers(); n != int64(len(redisx.MessageChannels())) {
			t.Errorf("%d subscriptions for all instances", n)
		}
		stopOne()
		w.says("gw", w.message("a", "t"))
		w.arrive(all, "a t")
		w.arrive(one)
		stopAll()
		w.becomes("the end of the subscriptions", func() bool { return w.subscribers() == 0 })
	}
}

func TestASubscriptionThatIsLostIsMadeAgain(t *testing.T) {
	server := redistest.Start(t, t.TempDir(), freeport.Addr(t))
	w := start(t, redistest.Open(t, server.Addr))
	got, _ := w.watch(messages.Watch{Namespace: "eu", Instances: []string{"a"}})
	server.Kill(t)
	server.Restart(t)
	w.becomes("a subscription", func() bool { return w.subscribers() == 1 })
	w.says("gw", w.message("a", "again"))
	w.arrive(got, "a again")
}

func TestAWatchFailsWhereNothingCanBeReceived(t *testing.T) {
	server := redistest.Start(t, t.TempDir(), freeport.Addr(t))
	w := start(t, redistest.Open(t, server.Addr))
	server.Kill(t)
	if _, err := w.exchange.Watch(context.Background(), messages.Watch{Namespace: "eu", Take: func(messages.Message) {}}); !errs.Is(err, errs.StoreUnavailable) {
		t.Errorf("got %v", err)
	}
}

// A store that hangs makes backends' messages be lost, and not the memory run out; and whoever sends is told.
func TestTheQueueIsBoundedAndItsSendersAreTold(t *testing.T) {
	server := redistest.Start(t, t.TempDir(), freeport.Addr(t))
	w := start(t, redistest.Open(t, server.Addr))
	w.records.all["a"] = linked("gw")
	if err := w.send("eu", "a", "t", "first"); err != nil {
		t.Fatal(err)
	}
	server.Pause(t)
	large := bytes.Repeat([]byte{'x'}, 16<<10)
	refused := 0
	w.becomes("a full queue", func() bool {
		if err := w.exchange.Send(context.Background(), "eu", "a", "t", large); errs.Is(err, errs.ServiceUnavailable) {
			refused++
		}
		return refused > 10
	})
	server.Resume(t)
	w.becomes("room", func() bool { return w.send("eu", "a", "t", "last") == nil })
}
