package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"strings"
)

// player is somebody who plays: with an address, a ticket and nothing else.
type player struct {
	id, address, ticket string
	steps               *timeline
}

// play joins, scores the same points in every round, and stays until the game is over.
func (p *player) play(ctx context.Context, points int) error {
	conn, lines, err := p.join(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", p.id, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	last := "nothing"
	for lines.Scan() {
		last = lines.Text()
		word, rest, _ := strings.Cut(last, " ")
		switch word {
		case "WELCOME":
			p.steps.note(p.id, "is in")
			err = say(conn, "SAY hello from "+p.id)
		case "ROUND":
			err = say(conn, fmt.Sprintf("SCORE %d", points))
		case "OVER":
			p.steps.note(p.id, "hears that the game is over: %s", rest)
			return nil
		case "REFUSED", "REMOVED":
			return fmt.Errorf("%s: the game server says %q", p.id, last)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p.id, err)
		}
	}
	return fmt.Errorf("%s: the game server hung up after %q: %w", p.id, last, cmp.Or(context.Cause(ctx), lines.Err(), net.ErrClosed))
}

// isRefused tries to join and fails if that succeeds.
func (p *player) isRefused(ctx context.Context) error {
	conn, lines, err := p.join(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", p.id, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if !lines.Scan() {
		return fmt.Errorf("%s: the game server hung up without a word: %w", p.id, cmp.Or(context.Cause(ctx), lines.Err(), net.ErrClosed))
	}
	if reason, refused := strings.CutPrefix(lines.Text(), "REFUSED "); refused {
		p.steps.note(p.id, "is turned away: %s", reason)
		return nil
	}
	return fmt.Errorf("%s: came with a forged ticket, and the game server says %q", p.id, lines.Text())
}

func (p *player) join(ctx context.Context) (net.Conn, *bufio.Scanner, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.address)
	if err != nil {
		return nil, nil, err
	}
	if err := say(conn, "JOIN "+p.ticket); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return conn, bufio.NewScanner(conn), nil
}

func say(conn net.Conn, line string) error {
	_, err := conn.Write([]byte(line + "\n"))
	return err
}

// forge puts another player's name into a ticket, which its signature does not cover then.
func forge(ticket string) string {
	parts := strings.Split(ticket, ".")
	if len(parts) != 3 {
		return "forged"
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "forged"
	}
	parts[1] = base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(claims), `"sub":"`, `"sub":"not-`, 1)))
	return strings.Join(parts, ".")
}
