package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

// keyVariable has an API key for roles that need one from their start.
const keyVariable = "BERTH_BENCH_KEY"

// play is one of the processes that bench starts beside Berth.
func play(role string, args []string) error {
	switch role {
	case "echo":
		return serve(echoServer{})
	case "naive":
		return naiveGateway(args[0])
	case "naive-backend":
		return naiveBackend(args[0])
	case "backend":
		return streamBackend(args[0])
	case "publish":
		return obey("", publisher(args[0]))
	case "collector":
		return collect()
	case "load":
		return obey("", newLoad().do)
	}
	return fmt.Errorf("there is no role %q", role)
}

// obey says where this process serves, and does what it is ordered until its standard input ends.
func obey(addr string, do func(order) report) error {
	out, in := json.NewEncoder(os.Stdout), json.NewDecoder(os.Stdin)
	if err := out.Encode(addr); err != nil {
		return err
	}
	for {
		var o order
		if err := in.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := out.Encode(do(o)); err != nil {
			return err
		}
	}
}

// serve serves HTTP until standard input ends.
func serve(h http.Handler) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- http.Serve(ln, h) }()
	go func() {
		failed <- obey(ln.Addr().String(), func(order) report { return report{Err: "nothing can be ordered here"} })
	}()
	return <-failed
}

// order is what one of the roles is to do.
type order struct {
	Do       string // open, fire or close
	Set      string // the name of a set of connections
	Bare     string // open: the address of an echo server
	Gateway  string // open: the gateway's, whose links are opened
	Instance string // open: game-instance's gRPC
	Key      string // open: an API key
	Conns    int    // open: how many; fire: how many of the set
	Work     string // fire: what
	InFlight int    // fire: on each connection
	Total    int    // fire: how often
}

// report is what came of it.
type report struct {
	Err      string
	Done     int
	Seconds  float64
	P50, P99 float64 // microseconds
}

// ordered has a role do something.
func ordered(c *child, o order) (report, error) {
	var r report
	if err := c.order(o, &r); err != nil {
		return r, fmt.Errorf("%s: %w", o.Do, err)
	}
	if r.Err != "" {
		return r, fmt.Errorf("%s %s %s: %s", o.Do, o.Set, o.Work, r.Err)
	}
	return r, nil
}
