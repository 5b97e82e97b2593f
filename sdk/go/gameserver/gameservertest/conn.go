package gameservertest

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/berth-dev/berth/sdk/go/gameserver/gameservertest/wire"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"github.com/coder/websocket"
)

const (
	// writeTimeout bounds a write to a server that does not read.
	writeTimeout = 10 * time.Second
	helloTimeout = 10 * time.Second
)

type phase int

const (
	waiting phase = iota // for Hello
	open
	closing
)

// conn is a connection. Its fields are guarded by the backend's mu.
type conn struct {
	b     *Backend
	n     int // counted from 1
	ws    *websocket.Conn
	codec *wire.Codec
	// out has what waits to be written. Overflow: the server is sent away as a slow consumer.
	out   chan outgoing
	gone  context.Context
	end   context.CancelFunc
	tasks sync.WaitGroup

	phase                phase
	game, social         string // the handles
	silent               bool   // nothing is heard of the gateway any more, and nothing it is told
	linked               bool   // the instance is linked over it
	rolledBack           bool   // STATE_ROLLED_BACK was answered over it
	hello, move          *time.Timer
	closed               websocket.StatusCode
	unwelcome            string // with which code it was closed
	overflowed, finished bool
}

// outgoing is a frame; or the end, with a code and goodbye, or without.
type outgoing struct {
	frame *linkv1.Frame
	raw   []byte
	bye   linkv1.CloseCode
	cut   bool
}

func newConn(b *Backend, ws *websocket.Conn, codec *wire.Codec) *conn {
	c := &conn{b: b, ws: ws, codec: codec, out: make(chan outgoing, 4096), game: "h_" + rand.Text(), social: "h_" + rand.Text()}
	c.gone, c.end = context.WithCancel(context.Background())
	b.mu.Lock()
	defer b.mu.Unlock()
	b.opened++
	c.n = b.opened
	b.live[c] = struct{}{}
	if b.over {
		_ = ws.CloseNow()
	}
	c.hello = time.AfterFunc(helloTimeout, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if c.phase == waiting {
			b.breach(c, linkv1.CloseCode_CLOSE_CODE_HELLO_TIMEOUT, "no hello came within %s of the upgrade", helloTimeout)
		}
	})
	b.notify()
	return c
}

// run works the connection until it is over.
func (c *conn) run() {
	c.tasks.Go(c.write)
	c.tasks.Go(c.ping)
	err := c.read()
	c.end()
	_ = c.ws.CloseNow()
	c.tasks.Wait()
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.hello.Stop()
	if c.move != nil {
		c.move.Stop()
	}
	c.closed, c.finished = websocket.CloseStatus(err), true
	delete(c.b.live, c)
	c.b.disconnected(c)
	c.b.notify()
}

// read takes frames until the connection ends.
func (c *conn) read() error {
	for {
		typ, r, err := c.ws.Reader(context.Background())
		if err != nil {
			return err
		}
		raw, err := io.ReadAll(io.LimitReader(r, maxFrame+1))
		if err != nil {
			return err
		}
		tooLarge := len(raw) > maxFrame
		if tooLarge {
			if _, err := io.Copy(io.Discard, r); err != nil {
				return err
			}
		}
		f, err := c.codec.Decode(typ, raw)
		c.b.mu.Lock()
		switch {
		case c.silent || c.phase == closing:
		case tooLarge:
			c.b.breach(c, linkv1.CloseCode_CLOSE_CODE_FRAME_TOO_LARGE, "a frame is larger than the %d bytes that welcome allows", maxFrame)
		case err != nil:
			c.b.breach(c, linkv1.CloseCode_CLOSE_CODE_MALFORMED_FRAME, "a frame cannot be read: %v", err)
		default:
			c.b.received(c, f)
		}
		c.b.mu.Unlock()
	}
}

// write writes what is queued until the connection ends.
func (c *conn) write() {
	for {
		select {
		case o := <-c.out:
			if !c.put(o) {
				return
			}
		case <-c.gone.Done():
			return
		}
	}
}

// put writes one thing, and reports whether more can follow.
func (c *conn) put(o outgoing) bool {
	switch {
	case o.cut:
		_ = c.ws.CloseNow()
		return false
	case o.bye != 0:
		_ = c.ws.Close(websocket.StatusCode(o.bye), codeName(o.bye))
		return false
	}
	raw := o.raw
	if o.frame != nil {
		var err error
		if raw, err = c.codec.Encode(o.frame); err != nil {
			c.b.tb.Errorf("gameservertest: a frame cannot be written: %v", err)
			return true
		}
	}
	ctx, cancel := context.WithTimeout(c.gone, writeTimeout)
	defer cancel()
	return c.ws.Write(ctx, c.codec.Type(), raw) == nil
}

// ping shows the server that the gateway is alive, and finds out about the server.
func (c *conn) ping() {
	tick := time.NewTicker(c.b.cfg.Heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.gone.Done():
			return
		}
		c.b.mu.Lock()
		silent := c.silent
		c.b.mu.Unlock()
		if silent {
			continue
		}
		ctx, cancel := context.WithTimeout(c.gone, max(2*c.b.cfg.Heartbeat, time.Second))
		err := c.ws.Ping(ctx)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			_ = c.ws.CloseNow()
			return
		}
	}
}

// send queues a frame. The caller holds the backend's mu.
func (c *conn) send(f *linkv1.Frame) { c.queue(outgoing{frame: f}) }

func (c *conn) queue(o outgoing) {
	if c.silent || c.phase == closing {
		return
	}
	select {
	case c.out <- o:
	default:
		if !c.overflowed {
			c.overflowed = true
			_ = c.ws.CloseNow()
		}
	}
}

// bye says goodbye and closes. The caller holds the backend's mu.
func (c *conn) bye(code linkv1.CloseCode, message string) {
	c.send(&linkv1.Frame{Kind: &linkv1.Frame_Goodbye{Goodbye: &linkv1.Goodbye{Code: code, Reconnect: reconnects(code), Message: message}}})
	c.queue(outgoing{bye: code})
	c.unwelcome = codeName(code)
	if !reconnects(code) && code != linkv1.CloseCode_CLOSE_CODE_REPLACED && code != linkv1.CloseCode_CLOSE_CODE_CREDENTIALS_IN_USE {
		c.b.session.final = c.unwelcome
	}
	c.phase = closing
}

// cut breaks the connection once all that is queued was written. The caller holds the backend's mu.
func (c *conn) cut() {
	c.queue(outgoing{cut: true})
	c.phase = closing
}

func codeName(code linkv1.CloseCode) string {
	const prefix = "CLOSE_CODE_"
	return code.String()[len(prefix):]
}
