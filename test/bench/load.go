package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
)

// What a set of connections can be ordered to do.
const (
	workEcho    = "echo"    // bytes that come back
	workMessage = "message" // ephemeral messages that a backend sends back
	workRequest = "request" // UpdateGameData over the link
	workNotify  = "notify"  // UpdateGameData by a backend, until the server is notified, which it acknowledges
	workUnary   = "unary"   // ephemeral messages of a backend to the server, a call of SendMessage each
	workStream  = "stream"  // the same over one StreamMessages
)

// load is the process that holds the other ends of the connections, and works for those that are measured. Its own cost counts nowhere.
type load struct {
	sets  map[string]*set
	begin time.Time
}

func newLoad() *load { return &load{sets: make(map[string]*set), begin: time.Now()} }

// now is what is written into payloads.
func (l *load) now() int64 { return int64(time.Since(l.begin)) }

func (l *load) do(o order) report {
	var r report
	var err error
	switch s := l.sets[o.Set]; {
	case o.Do == "open":
		s = &set{load: l, failed: make(chan error, 1)}
		l.sets[o.Set] = s
		r, err = s.open(o)
	case s == nil:
		err = fmt.Errorf("there is no set %q", o.Set)
	case o.Do == "fire":
		r, err = s.fire(o)
	case o.Do == "close":
		s.close()
		delete(l.sets, o.Set)
	default:
		err = fmt.Errorf("what is %q?", o.Do)
	}
	if err != nil {
		r.Err = err.Error()
	}
	return r
}

// set is a number of connections to the same.
type set struct {
	load    *load
	sockets []*socket
	api     instancev1.GameInstanceServiceClient
	talk    instancev1.MessageServiceClient
	as      context.Context // with an API key
	stream  *sender         // made when it is first needed

	remaining atomic.Int64
	done      chan struct{}
	failed    chan error // the first connection that broke
	closing   atomic.Bool
}

// openers are how many connections are opened at once.
const openers = 32

func (s *set) open(o order) (report, error) {
	begin, open := time.Now(), func() (*socket, error) { return dialBare(s, o.Bare) }
	if o.Gateway != "" {
		conn, err := grpc.NewClient(o.Instance, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return report{}, err
		}
		s.api, s.talk = instancev1.NewGameInstanceServiceClient(conn), instancev1.NewMessageServiceClient(conn)
		s.as = metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+o.Key)
		links := newLinks(s, conn, o.Gateway)
		open = links.open
	}
	s.sockets = make([]*socket, o.Conns)
	var all sync.WaitGroup
	var first atomic.Pointer[error]
	for n := range openers {
		all.Go(func() {
			for i := n; i < o.Conns && first.Load() == nil; i += openers {
				socket, err := open()
				if err != nil {
					first.CompareAndSwap(nil, &err)
					return
				}
				s.sockets[i] = socket
				go socket.read()
			}
		})
	}
	all.Wait()
	if err := first.Load(); err != nil {
		return report{}, *err
	}
	return report{Done: o.Conns, Seconds: time.Since(begin).Seconds()}, nil
}

func (s *set) close() {
	s.closing.Store(true)
	for _, socket := range s.sockets {
		_ = socket.ws.CloseNow()
	}
}

// fail notes that a connection is broken.
func (s *set) fail(err error) {
	if s.closing.Load() {
		return
	}
	select {
	case s.failed <- err:
	default:
	}
}

// fire has the first so many connections do something, each so often at a time, and waits for the last to be answered.
func (s *set) fire(o order) (report, error) {
	sockets := s.sockets[:o.Conns]
	total := o.Total / o.Conns * o.Conns
	s.remaining.Store(int64(total))
	s.done = make(chan struct{})
	if o.Work == workStream && s.stream == nil {
		var err error
		if s.stream, err = newSender(s); err != nil {
			return report{}, err
		}
	}
	for _, socket := range sockets {
		socket.ready(o.Work, total/o.Conns)
	}
	begin := time.Now()
	for _, socket := range sockets {
		if o.Work == workNotify {
			go socket.notify(total / o.Conns)
			continue
		}
		for range o.InFlight {
			socket.next()
		}
	}
	giveUp := time.NewTimer(patience)
	defer giveUp.Stop()
	select {
	case <-s.done:
	case err := <-s.failed:
		return report{}, fmt.Errorf("a connection broke: %w", err)
	case <-giveUp.C:
		return report{}, fmt.Errorf("%d of %d did not come back", s.remaining.Load(), total)
	}
	r := report{Done: total, Seconds: time.Since(begin).Seconds()}
	var took []int64
	for _, socket := range sockets {
		took = append(took, socket.latencies()...)
	}
	if len(took) < total {
		return r, errors.New("some were not answered")
	}
	slices.Sort(took)
	r.P50, r.P99 = float64(took[len(took)/2])/1000, float64(took[len(took)*99/100])/1000
	return r, nil
}

// finished counts what came back.
func (s *set) finished() {
	if s.remaining.Add(-1) == 0 {
		close(s.done)
	}
}

// notify has a backend write to the socket's instance, one write after the other has arrived.
func (c *socket) notify(times int) {
	for range times {
		at := c.set.load.now()
		_, err := c.set.api.UpdateGameData(c.set.as, &instancev1.UpdateGameDataRequest{
			InstanceId: c.instance, GameData: payloadOf(at),
		})
		if err != nil {
			c.set.fail(err)
			return
		}
		<-c.arrived
		c.took(at)
	}
}
