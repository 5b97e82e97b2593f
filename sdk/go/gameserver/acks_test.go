package gameserver_test

import (
	"testing"
	"testing/synctest"
)

// However many events the game takes while the connection is busy, one frame acknowledges them.
func TestAcksAreFolded(t *testing.T) {
	const events = 500
	synctest.Test(t, func(t *testing.T) {
		g := newBubbleGateway(t)
		s, p := g.connect(nil)
		for i := int64(1); i <= events; i++ {
			p.notify(1000+i, 1000+i-1, playersAdded("x"))
		}
		p.slow.Lock() // the wire takes nothing from the server
		for range events {
			<-s.Events()
		}
		synctest.Wait()
		p.slow.Unlock()
		acks := 0
		for last := int64(0); last != 1000+events; {
			last = p.next().GetAck().GetOffset()
			acks++
		}
		if acks > 5 {
			t.Errorf("%d frames acknowledge %d events", acks, events)
		}
	})
}

// What the game has taken is acknowledged before the connection is closed, and nothing else.
func TestCloseAcknowledgesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newBubbleGateway(t)
		s, p := g.connect(nil)
		for i := int64(1); i <= 10; i++ {
			p.notify(1000+i, 1000+i-1, playersAdded("x"))
		}
		p.slow.Lock()
		for range 7 {
			<-s.Events()
		}
		end := async(func() error { return s.Close(t.Context()) })
		synctest.Wait()
		p.slow.Unlock()
		if err := <-end; err != nil {
			t.Fatal(err)
		}
		<-p.closed
		close(p.frames)
		last := int64(0)
		for f := range p.frames {
			last = f.GetAck().GetOffset()
		}
		if last != 1007 {
			t.Errorf("the last ack is of %d, want 1007", last)
		}
	})
}
