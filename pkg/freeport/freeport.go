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

// Addr returns an address on the loopback interface on which nobody listens.
func Addr(tb testing.TB) string {
	tb.Helper()
	for range 100 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(first+rand.IntN(last-first)))
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		if err := ln.Close(); err != nil {
			tb.Fatal(err)
		}
		return addr
	}
	tb.Fatal("no free port")
	return ""
}
