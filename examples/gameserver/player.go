package main

import (
	"bufio"
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	"github.com/berth-dev/berth/sdk/go/token"
)

const (
	maxConns     = 256      // further connections wait to be accepted
	maxLine      = 12 << 10 // bytes; a longer line ends the connection
	outgoing     = 64       // lines; a player who lets more of them pile up is disconnected
	joinTimeout  = 10 * time.Second
	writeTimeout = 2 * time.Second
)

// player is somebody with a connection. Only the match calls its methods.
type player struct {
	id   string
	conn net.Conn
	out  chan string // overflow: the player is disconnected
	gone bool
}

// send queues a line.
func (p *player) send(line string) {
	if p.gone {
		return
	}
	select {
	case p.out <- line:
	default:
		p.leave()
	}
}

// leave ends the connection after what is queued.
func (p *player) leave() {
	if !p.gone {
		p.gone = true
		close(p.out)
	}
}

// input is something that a connection tells the match.
type input struct {
	from *player
	kind inputKind
	line string // of a said input
}

type inputKind int

const (
	joined inputKind = iota
	said
	left
)

// tell hands an input to the match; false when the match is over.
func (m *match) tell(in input) bool {
	select {
	case m.inputs <- in:
		return true
	case <-m.over:
		return false
	}
}

// welcome serves connections until the listener is closed, and returns when all of them are.
func (m *match) welcome(ctx context.Context, listener net.Listener) {
	room := make(chan struct{}, maxConns)
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		room <- struct{}{}
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			m.log.Warn("accept failed", "error", err)
			time.Sleep(10 * time.Millisecond) // out of descriptors, say: give it a moment
			<-room
			continue
		}
		conns.Go(func() {
			defer func() { <-room }()
			defer conn.Close()
			m.serve(ctx, conn)
		})
	}
}

// serve is one connection.
func (m *match) serve(ctx context.Context, conn net.Conn) {
	cut := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer cut()
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, maxLine)
	_ = conn.SetReadDeadline(time.Now().Add(joinTimeout))
	p, refused := m.admit(ctx, lines)
	if refused != "" {
		m.log.Info("player refused", "reason", refused)
		_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, _ = conn.Write([]byte("REFUSED " + refused + "\n"))
		return
	}
	p.conn = conn
	_ = conn.SetReadDeadline(time.Time{})
	cut() // from here on the match ends the connection, after its last word
	if !m.tell(input{from: p, kind: joined}) {
		return
	}
	var writing sync.WaitGroup
	writing.Go(p.write)
	for lines.Scan() {
		if !m.tell(input{from: p, kind: said, line: strings.TrimSpace(lines.Text())}) {
			break
		}
	}
	m.tell(input{from: p, kind: left})
	writing.Wait()
}

// admit reads JOIN and checks the ticket. It returns why not, or the player.
func (m *match) admit(ctx context.Context, lines *bufio.Scanner) (*player, string) {
	if !lines.Scan() {
		return nil, "join-missing"
	}
	command, ticket, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
	if command != "JOIN" {
		return nil, "join-missing"
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	who, err := m.berth.VerifyTicket(ctx, strings.TrimSpace(ticket))
	if err != nil {
		return nil, refusal(err)
	}
	return &player{id: who.GetId(), out: make(chan string, outgoing)}, ""
}

func refusal(err error) string {
	var bad *token.Error
	switch {
	case errors.Is(err, gameserver.ErrTicketUsed):
		return "ticket-used"
	case errors.Is(err, gameserver.ErrTicketElsewhere):
		return "other-instance"
	case errors.Is(err, gameserver.ErrPlayerUnknown):
		return "not-invited"
	case errors.As(err, &bad) && bad.Reason == token.Expired:
		return "ticket-expired"
	case errors.As(err, &bad):
		return "ticket-invalid"
	default:
		return "try-again"
	}
}

// write sends what is queued, and closes the connection after the last line.
func (p *player) write() {
	defer p.conn.Close()
	w := bufio.NewWriter(p.conn)
	for line := range p.out {
		_, _ = w.WriteString(line + "\n")
		if len(p.out) > 0 {
			continue
		}
		_ = p.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		if w.Flush() != nil {
			return // the reading side notices, and tells the match
		}
	}
	_ = p.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_ = w.Flush()
}
