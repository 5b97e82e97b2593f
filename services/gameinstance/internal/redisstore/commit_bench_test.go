package redisstore_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/freeport"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/redisstore"
	"github.com/berth-dev/berth/services/gameinstance/internal/timer"
)

const (
	// bytes is how much data a command brings.
	bytes = 128
	// window is how many commands are kept of a server that has sent many.
	window = 128
	// spread is among how many instances of a crowd the commands go round. Their windows are full, as those of one instance soon are: what is
	// compared is the crowd around them.
	spread = 1000
	// builders make a crowd.
	builders = 32
)

// place is a real store with nothing in it, and the service upon it.
type place struct {
	redis   *redisx.Store
	store   *countingStore
	service *instance.Service
	meter   meter
	builder *redisstore.Store // does not wait for a replica
}

// countingStore counts commits.
type countingStore struct {
	*redisstore.Store
	commits atomic.Int64
}

func (s *countingStore) Commit(ctx context.Context, c *instance.Change, kept []instance.Kept) (instance.Committed, error) {
	s.commits.Add(1)
	return s.Store.Commit(ctx, c, kept)
}

func newPlace(b *testing.B, durability string) *place {
	b.Helper()
	var servers []*redistest.Process
	if durability == redisx.Replicated {
		master, replica := redistest.Replicated(b)
		servers = append(servers, master, replica)
	} else {
		servers = append(servers, redistest.Start(b, b.TempDir(), freeport.Addr(b)))
	}
	var m meter
	for _, s := range servers {
		node := redistest.Node(b, s.Addr)
		// To rewrite the file takes a fork, which would fall into some round or other.
		if err := node.ConfigSet(context.Background(), "auto-aof-rewrite-percentage", "0").Err(); err != nil {
			b.Fatal(err)
		}
		m.servers = append(m.servers, node)
	}
	open := func(durability string) *redisx.Store {
		return redistest.OpenWith(b, redisx.Config{Addrs: []string{servers[0].Addr}, Durability: durability, Partitions: 256})
	}
	r := open(durability)
	store := &countingStore{Store: redisstore.New(r)}
	return &place{redis: r, store: store, service: instance.NewService(instance.Config{Store: store}), meter: m, builder: redisstore.New(open(redisx.Fast))}
}

// crowd is a number of running instances of one place.
type crowd struct {
	*place
	talkers []*talker
}

// talker is an instance whose server sends commands.
type talker struct {
	id      string
	player  string
	server  instance.Caller
	session string
	numbers atomic.Int64
}

// crowd makes instances. Each has a timer, which is not due, and so many of them, all over the crowd, a server that has sent a window of commands.
func (p *place) crowd(b *testing.B, size, players, talking int) *crowd {
	b.Helper()
	c := &crowd{place: p, talkers: make([]*talker, min(size, talking))}
	step := size / max(1, len(c.talkers))
	var all sync.WaitGroup
	for n := range builders {
		all.Go(func() {
			for i := n; i < size; i += builders {
				talks := i%step == 0 && i/step < len(c.talkers)
				t, err := p.runs(players, talks)
				if err != nil {
					b.Error(err)
					return
				}
				if talks {
					c.talkers[i/step] = t
				}
			}
		})
	}
	all.Wait()
	if b.Failed() {
		b.FailNow()
	}
	p.catchUp(b)
	return c
}

// catchUp waits until the replica, if there is one, has what was built.
func (p *place) catchUp(b *testing.B) {
	b.Helper()
	replicas, have := len(p.meter.servers)-1, 0
	for try := 0; have < replicas; try++ {
		if try == 60 {
			b.Fatal("the replica is far behind")
		}
		ctx, pipe := context.Background(), p.meter.servers[0].Pipeline()
		pipe.Incr(ctx, "built")
		acks := pipe.Do(ctx, "wait", replicas, 1000)
		_, err := pipe.Exec(ctx)
		if err == nil {
			have, err = acks.Int()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// runs commits an instance's way from its creation until it runs as one change, and the commands that its server has sent since.
func (p *place) runs(players int, talks bool) (*talker, error) {
	id, now := uuid.NewString(), time.Now()
	create := instance.Create{
		Namespace: "default", ID: id, GameData: payload(), Placement: instance.Placement{Build: "build", Regions: []string{"eu"}},
		Timeouts: instance.Timeouts{Lifetime: 24 * time.Hour}, Digest: make([]byte, 16),
	}
	for n := range players {
		create.Players = append(create.Players, instance.Player{ID: playerID(n), Data: payload()})
	}
	c, err := instance.Decide(nil, create, "key:bench", now)
	if err != nil {
		return nil, err
	}
	attempt := c.After.Attempt()
	server := instance.Caller{ServerID: attempt.ServerID, OverLink: true}
	then := func(cmd instance.Command) {
		if err != nil {
			return
		}
		var next *instance.Change
		if next, err = instance.Decide(c.After, cmd, "server:bench", now); err == nil {
			c.After, c.History = next.After, append(c.History, next.History...)
		}
	}
	then(instance.CallAnswered{Kind: instance.CallAllocate, AttemptID: attempt.ID})
	then(instance.ReportAllocated{AttemptID: attempt.ID, Provider: "local", Region: "eu", Endpoints: []instance.Endpoint{{Name: "game", Host: "192.0.2.1", Port: 7777}}})
	then(instance.LinkServer{Server: server, SessionEpoch: 1, GatewayID: "gateway"})
	server.LinkEpoch = c.After.LastLinkEpoch
	then(instance.ConnectPlayers{Server: server})
	if err != nil {
		return nil, err
	}
	t := &talker{id: id, player: playerID(players / 2), server: server, session: uuid.NewString()}
	var kept []instance.Kept
	for talks && len(kept) < window {
		env := t.envelope()
		kept = append(kept, instance.Kept{ID: env.ID, Digest: env.Digest})
	}
	_, err = p.builder.Commit(context.Background(), c, kept)
	return t, err
}

func payload() instance.Data {
	return instance.Data{Set: true, Binary: make([]byte, bytes), Size: bytes + 3}
}

func playerID(n int) string { return fmt.Sprintf("player-%09d", n) }

// envelope is that of the next command over the link.
func (t *talker) envelope() instance.Envelope {
	return instance.Envelope{
		ID: instance.CommandID{Session: t.session, Number: t.numbers.Add(1)}, Digest: make([]byte, 16), Actor: "server:" + t.server.ServerID,
	}
}

// gameData and onePlayer are the usual commands.
func (t *talker) gameData() instance.Command {
	return instance.UpdateGameData{Server: t.server, Data: instance.Update{Data: payload()}}
}

func (t *talker) onePlayer() instance.Command {
	return instance.UpdatePlayers{Server: t.server, Updates: []instance.PlayerUpdate{{ID: t.player, Data: instance.Update{Data: payload()}}}}
}

// work is something that is measured: total commands by a number of writers.
type work struct {
	name    string
	at      *place
	writers int
	do      func(ctx context.Context, writer, n int) error

	costs   rounds
	commits int64 // of the latest round
}

// apply returns the work of a crowd: each writer goes round among instances of its own, if there are enough.
func apply(name string, c *crowd, writers int, command func(*talker) instance.Command) *work {
	own := max(1, len(c.talkers)/writers)
	return &work{name: name, at: c.place, writers: writers, do: func(ctx context.Context, writer, n int) error {
		t := c.talkers[(writer*own+n%own)%len(c.talkers)]
		_, err := c.service.Apply(ctx, "default", t.id, t.envelope(), command(t))
		return err
	}}
}

// compareAndSet is the least that a durable change needs.
var compareAndSet = redis.NewScript(`
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1`)

// bare changes values, as many as are held: each writer one of its own, or one writer all of them in turn.
func bare(name string, p *place, writers int, held []string) *work {
	values := [2]string{strings.Repeat("a", bytes), strings.Repeat("b", bytes)}
	return &work{name: name, at: p, writers: writers, do: func(ctx context.Context, writer, n int) error {
		key := (writer + n*(len(held)/spread)) % len(held)
		next := values[0]
		if held[key] == next {
			next = values[1]
		}
		done, err := p.redis.Write(ctx, compareAndSet, []string{bareKey(key)}, held[key], next).Int()
		if err == nil && done == 0 {
			err = instance.ErrConflict
		}
		held[key] = next
		return err
	}}
}

func bareKey(n int) string { return redisx.Key(n%256, fmt.Sprintf("bare:%d", n)) }

// values puts values into a place, and returns what it holds.
func (p *place) values(b *testing.B, size int) []string {
	b.Helper()
	held, ctx := make([]string, size), context.Background()
	for n := 0; n < size; n += 1000 {
		pipe := p.redis.Pipeline()
		for i := n; i < min(size, n+1000); i++ {
			held[i] = strings.Repeat("c", bytes)
			pipe.Set(ctx, bareKey(i), held[i], 0)
		}
		if _, err := pipe.Exec(ctx); err != nil {
			b.Fatal(err)
		}
	}
	p.catchUp(b)
	return held
}

// round measures the work once more.
func (w *work) round(b *testing.B, total int) {
	before, each := w.at.store.commits.Load(), total/w.writers
	cost := w.at.meter.of(b, each*w.writers, func() {
		var all sync.WaitGroup
		for writer := range w.writers {
			all.Go(func() {
				for n := range each {
					if err := w.do(context.Background(), writer, n); err != nil {
						b.Errorf("%s: %v", w.name, err)
						return
					}
				}
			})
		}
		all.Wait()
	})
	if b.Failed() {
		b.FailNow()
	}
	w.costs, w.commits = append(w.costs, cost), w.at.store.commits.Load()-before
}

// BenchmarkCommit measures what a command costs: beside a bare change of the store, in crowds of several sizes, with many players, and with many
// writers. All that is compared takes turns. With -short everything is small, and says only that it works.
func BenchmarkCommit(b *testing.B) {
	for _, durability := range []string{redisx.Fast, redisx.Replicated} {
		b.Run(durability, func(b *testing.B) {
			c := newComparison(b, durability)
			for b.Loop() { // once: it takes longer than the shortest time that the testing package accepts
				c.run(b)
			}
			c.report(b)
		})
	}
}

// comparison is works that are compared.
type comparison struct {
	rounds, each int // how often, and how many commands

	bare, bareMost         *work // one writer, one value and many
	one, thousand, most    *work // one writer, crowds of several sizes
	few, hundred, full     *work // one writer, several numbers of players
	bareAtOnce, mostAtOnce *work // many writers, each of its own instances
	hot                    *work // many writers of one instance

	timers *redisstore.Timers
	look   timer.Look
	looks  rounds
}

const (
	atOnce = 32
	onOne  = 64
	looks  = 20 // a round
	times  = 8  // times as many commands where there are many writers
)

func newComparison(b *testing.B, durability string) *comparison {
	b.Helper()
	size, c := 100_000, &comparison{rounds: 11, each: 300}
	if testing.Short() {
		size, c.rounds, c.each = 1000, 2, 64
	}
	alone, small, large := newPlace(b, durability), newPlace(b, durability), newPlace(b, durability)
	one, thousand, most := alone.crowd(b, 1, 2, 1), small.crowd(b, 1000, 2, spread), large.crowd(b, size, 2, spread)
	few := alone.values(b, atOnce)
	c.bare, c.bareAtOnce = bare("bare", alone, 1, few[:1]), bare("bare at once", alone, atOnce, few)
	values := newPlace(b, durability)
	c.bareMost = bare("bare among many", values, 1, values.values(b, size))
	c.one, c.hot = apply("one", one, 1, (*talker).gameData), apply("hot", one, onOne, (*talker).gameData)
	c.thousand = apply("a thousand", thousand, 1, (*talker).gameData)
	c.most, c.mostAtOnce = apply("most", most, 1, (*talker).gameData), apply("most at once", most, atOnce, (*talker).gameData)
	c.few = apply("2 players", small.crowd(b, 20, 2, 20), 1, (*talker).onePlayer)
	c.hundred = apply("100 players", small.crowd(b, 20, 100, 20), 1, (*talker).onePlayer)
	c.full = apply("1,000 players", small.crowd(b, 20, 1000, 20), 1, (*talker).onePlayer)
	c.timers, c.look = redisstore.NewTimers(large.redis), timer.Look{Gap: 5 * time.Second, Hold: time.Minute, Limit: 64}
	for p := range large.redis.Partitions() {
		c.look.Partitions = append(c.look.Partitions, p)
	}
	return c
}

func (c *comparison) run(b *testing.B) {
	for range c.rounds {
		for _, w := range []*work{c.bare, c.bareMost, c.one, c.thousand, c.most, c.few, c.hundred, c.full} {
			w.round(b, c.each)
		}
		for _, w := range []*work{c.bareAtOnce, c.mostAtOnce, c.hot} {
			w.round(b, times*c.each)
		}
		c.looks = append(c.looks, c.most.at.meter.of(b, looks, func() {
			for range looks {
				if _, err := c.timers.Sweep(context.Background(), c.look); err != nil {
					b.Fatal(err)
				}
			}
		}))
	}
}

func (c *comparison) report(b *testing.B) {
	for _, f := range []struct {
		name string
		of   rounds
	}{
		{"bare", c.bare.costs}, {"1_instance", c.one.costs}, {"1000_instances", c.thousand.costs}, {"100000_instances", c.most.costs},
		{"2_players", c.few.costs}, {"100_players", c.hundred.costs}, {"1000_players", c.full.costs},
		{"32_writers_bare", c.bareAtOnce.costs}, {"32_writers", c.mostAtOnce.costs}, {"64_writers_of_one", c.hot.costs}, {"look_at_100000_timers", c.looks},
	} {
		report(b, f.of.median(spent.cpu), "us", "%s_cpu", f.name)
	}
	redisCPU := func(s spent) time.Duration { return s.redis }
	report(b, c.bare.costs.median(redisCPU), "us", "bare_redis_cpu")
	report(b, c.one.costs.median(redisCPU), "us", "1_instance_redis_cpu")
	report(b, c.most.costs.median(redisCPU), "us", "100000_instances_redis_cpu")
	report(b, c.looks.median(func(s spent) time.Duration { return s.wall }), "us", "look_at_100000_timers_wall")
	for _, f := range []struct {
		name     string
		of, than *work
	}{
		{"bare_among_100000_to_1", c.bareMost, c.bare}, {"1_instance_to_bare", c.one, c.bare}, {"100000_instances_to_bare_among_100000", c.most, c.bareMost}, {"1000_instances_to_1", c.thousand, c.one}, {"100000_instances_to_1", c.most, c.one}, {"100000_instances_to_1000", c.most, c.thousand},
		{"100_players_to_2", c.hundred, c.few}, {"1000_players_to_2", c.full, c.few},
		{"32_writers_to_bare", c.mostAtOnce, c.bareAtOnce}, {"64_writers_of_one_to_1_writer", c.hot, c.one},
	} {
		report(b, f.of.costs.to(f.than.costs), "ratio", "%s", f.name)
	}
	perSecond := 1e6 / c.hot.costs.median(func(s spent) time.Duration { return s.wall })
	report(b, perSecond, "/s", "64_writers_of_one_commands")
	report(b, perSecond*float64(c.hot.commits)/float64(times*c.each), "/s", "64_writers_of_one_commits")
}
