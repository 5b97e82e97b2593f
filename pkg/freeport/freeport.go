// Package freeport finds ports for the servers that tests start as processes, which cannot be handed an open listener.
package freeport

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// The range lies below the one from which Linux takes ports for outgoing connections: nobody gets a port by accident between its choice and its use.
const first, last = 12000, 32000

// Addr returns an address on the loopback interface on which nobody listens for TCP. No other call, in this process or in that of another
// package's tests, returns the same one before the test has ended.
func Addr(tb testing.TB) string {
	tb.Helper()
	addr, release, err := Hold()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(release)
	return addr
}

// Hold is Addr for a server that outlives a test: the address is taken until release is called or the process ends.
func Hold() (addr string, release func(), err error) {
	for range 100 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(first+rand.IntN(last-first)))
		if release, ok := claim(addr); ok {
			return addr, release, nil
		}
	}
	return "", nil, errors.New("no free port")
}

// claim takes the address, if it is free. The claim is the UDP socket of the same number: it is in nobody's way, one process has it at a time,
// and it goes with its process, however that ends.
func claim(addr string) (release func(), ok bool) {
	held, err := net.ListenPacket("udp", addr)
	if err != nil {
		return nil, false
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		_ = held.Close()
		return nil, false
	}
	_ = ln.Close()
	return func() { _ = held.Close() }, true
}
