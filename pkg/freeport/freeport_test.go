package freeport

import (
	"net"
	"testing"
)

// Two services of one test were once given the same port, and the second could not start.
func TestAPortIsGivenOnce(t *testing.T) {
	addr := Addr(t)
	if _, ok := claim(addr); ok {
		t.Fatalf("%s was given twice", addr)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("whoever was given the address cannot listen on it: %v", err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAPortIsFreeAgainAfterItsTest(t *testing.T) {
	var addr string
	t.Run("first", func(t *testing.T) { addr = Addr(t) })
	release, ok := claim(addr)
	if !ok {
		t.Fatalf("%s is still taken", addr)
	}
	release()
}
