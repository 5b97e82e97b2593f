package gameinstance_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/pkg/rpc"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"github.com/berth-dev/berth/services/gameinstance"
)

// onCluster runs the service on a real Redis Cluster of its own.
func onCluster(t *testing.T, durability string) (*world, *redistest.Cluster) {
	t.Helper()
	c := redistest.NewCluster(t)
	store := c.Open(t, durability)
	w := start(t, func(cfg *gameinstance.Config) {
		cfg.Redis = redisx.Config{Addrs: c.Addrs(), Durability: durability}
	})
	w.store = store
	return w, c
}

// writer adds players to an instance, one after the other, and repeats until it is answered, as a backend does.
type writer struct {
	id           string
	acknowledged []string
	err          error
}

func (b *writer) run(ctx context.Context, w *world, stop <-chan struct{}) {
	for n := 0; n < 900; n++ {
		player := fmt.Sprint("p", n)
		for {
			if ctx.Err() != nil {
				b.err = ctx.Err()
				return
			}
			_, err := w.instances.AddPlayers(as(apiKey), &instancev1.AddPlayersRequest{InstanceId: b.id, RequestId: player, Players: []*instancev1.Player{{Id: player}}})
			switch errs.ReasonOf(rpc.FromStatus(err)) {
			case "":
				b.acknowledged = append(b.acknowledged, player)
			case errs.StoreUnavailable, errs.DeadlineExceeded, errs.ServiceUnavailable, errs.Contended:
				continue // the outcome is unknown, and a repeat with the same id is safe
			default:
				b.err = fmt.Errorf("%s: %w", player, err)
				return
			}
			break
		}
		select {
		case <-stop:
			return
		default:
		}
	}
}

// A master is killed in the middle of commits, and its replica takes over: whatever was acknowledged is there, once.
func TestNothingAcknowledgedIsLostInAFailover(t *testing.T) {
	w, c := onCluster(t, redisx.Replicated)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	writers := make([]*writer, 8)
	stop := make(chan struct{})
	var all sync.WaitGroup
	for n := range writers {
		writers[n] = &writer{id: w.create().GetId()}
		all.Go(func() { writers[n].run(ctx, w, stop) })
	}
	hit := w.store.Partition(writers[0].id)
	c.MasterOf(t, hit).Kill(t)
	c.Failover(t, hit)
	// The replica that took over has none of its own, so nothing can be confirmed there until the old master is back as its replica.
	c.ReplicaOf(t, hit).Restart(t)
	close(stop)
	all.Wait()
	total := 0
	for _, b := range writers {
		if b.err != nil {
			t.Errorf("writer: %v", b.err)
		}
		in := map[string]bool{}
		for _, p := range w.get(b.id).GetPlayers() {
			in[p.GetId()] = true
		}
		for _, p := range b.acknowledged {
			total++
			if !in[p] {
				t.Errorf("instance %s: %s was acknowledged and is lost", b.id, p)
			}
		}
	}
	if total < len(writers) {
		t.Errorf("only %d writes: the test shows nothing", total)
	}
}

// With "fast", a master that dies before its replica has heard of a write takes it along. The server that made it finds out, and the history says so.
func TestWhatAFastStoreLosesIsDetected(t *testing.T) {
	w, c := onCluster(t, redisx.Fast)
	inst := w.create()
	id := inst.GetId()
	p := w.store.Partition(id)
	opened := w.open(id, &linkv1.Hello{})
	linked, err := w.link(id)
	if err != nil {
		t.Fatal(err)
	}
	master, replica := c.MasterOf(t, p), c.ReplicaOf(t, p)
	cutOff(t, master, replica, p)
	answer := new(gameserverv1.ConnectPlayersResponse)
	if err := w.relay(&linkv1.Request{Id: 2, InstanceId: id, LinkEpoch: linked.GetLinkEpoch(), Method: "ConnectPlayers"}, answer); err != nil {
		t.Fatal(err)
	}
	lost := answer.GetRevision()
	master.Kill(t)
	replica.Resume(t)
	c.Failover(t, p)
	var again *instancev1.GameInstance
	for deadline := time.Now().Add(30 * time.Second); again == nil && time.Now().Before(deadline); {
		if out, err := w.instances.GetGameInstance(as(viewerKey), &instancev1.GetGameInstanceRequest{InstanceId: id}); err == nil {
			again = out.GetInstance()
		}
	}
	if again.GetRevision() >= lost || again.GetState() != instancev1.GameInstance_STATE_LINKED {
		t.Fatalf("nothing was lost, so the test shows nothing: %v", again)
	}
	hello := openRequest(id, &linkv1.Hello{ResumeKey: opened.GetResumeKey(), Instances: []*linkv1.HelloInstance{
		{InstanceId: id, LinkEpoch: linked.GetLinkEpoch(), LastOffset: linked.GetOffset(), Revision: lost, LastRequest: 2},
	}})
	resumed, err := w.sessions.OpenSession(internally(), hello)
	if err != nil {
		t.Fatal(err)
	}
	if got := resumed.GetRolledBackInstanceIds(); len(got) != 1 || got[0] != id {
		t.Errorf("the server is told %v", resumed)
	}
	w.epochs[hello.GetServerId()] = resumed.GetSessionEpoch()
	if relinked, err := w.link(id); err != nil || relinked.GetInstance().GetRevision() <= lost {
		t.Errorf("linked again: %v, %v", relinked, err)
	}
}

// cutOff freezes a replica that has everything so far, and keeps what follows from waiting for it in a buffer.
func cutOff(t *testing.T, master, replica *redistest.Process, partition int) {
	t.Helper()
	ctx, node := context.Background(), redistest.Node(t, master.Addr)
	pipe := node.Pipeline()
	pipe.Set(ctx, redisx.Key(partition, "probe"), 1, 0)
	acks := pipe.Do(ctx, "wait", 1, 10_000)
	if _, err := pipe.Exec(ctx); err != nil || acks.Val() != int64(1) {
		t.Fatalf("the replica has not everything: %v, %v", acks.Val(), err)
	}
	replica.Pause(t)
	if err := node.ClientKillByFilter(ctx, "TYPE", "replica").Err(); err != nil {
		t.Fatal(err)
	}
}
