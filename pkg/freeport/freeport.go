// Package freeport finds ports for the servers that tests start as processes, which cannot be handed an open listener.
package freeport

import (
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
	for range 100 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(first+rand.IntN(last-first)))
		if claim(tb, addr) {
			return addr
		}
	}
	tb.Fatal("no free port")
	return ""
}

// claim takes the address for the test, if it is free. The claim is the UDP socket of the same number: it is in nobody's way, one process
// has it at a time, and it goes with its process, however that ends.
func claim(tb testing.TB, addr string) bool {
	held, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		_ = held.Close()
		return false
	}
	tb.Cleanup(func() { _ = held.Close() })
	if err := ln.Close(); err != nil {
		tb.Fatal(err)
	}
	return true
}
