// Command gameserver is a small but whole game server on Berth's SDK. Players connect over TCP and score points, round by
// round; whoever has most at the end wins.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/sdk/go/gameserver"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

const usage = `usage: gameserver [flags]

A game server that Berth starts, or that you start by hand for an instance that waits for one. Where it belongs it learns from
its bootstrap document: BERTH_BOOTSTRAP, BERTH_BOOTSTRAP_FILE, BERTH_BOOTSTRAP_FD or .berth/bootstrap.json.

Players speak lines over TCP:
  JOIN TICKET   first; answered with WELCOME PLAYER, or with REFUSED REASON and the end of the connection
  SCORE POINTS  once a round (0 to 1000); a round is announced as ROUND NUMBER
  SAY TEXT      to everybody, who get SAID PLAYER TEXT
  QUIT          leaves
What a backend sends as a message with the topic "announce" and {"text": TEXT} is told as ANNOUNCED TEXT.
The match begins when everybody who is invited has come, and its end is told as OVER WINNER.

flags:
`

// exitCrash is the exit status of a crash that was asked for.
const exitCrash = 3

type config struct {
	rules
	listen          string
	verbose         bool
	crashBeforeLink bool
	crashAfterLink  bool
	neverLink       bool
}

func main() {
	var cfg config
	flag.IntVar(&cfg.rounds, "rounds", 3, "rounds to play")
	flag.DurationVar(&cfg.roundTime, "round-time", 2*time.Second, "how long a round waits for the points of everybody; with -hold, how long it takes")
	flag.BoolVar(&cfg.hold, "hold", false, "play on after the last round until a player sends END or a backend sets the game data {\"end\": true}")
	flag.StringVar(&cfg.listen, "listen", "", "`address` to listen on, if not that of the endpoint \"game\"; players are sent there")
	flag.BoolVar(&cfg.verbose, "verbose", false, "log more")
	flag.BoolVar(&cfg.crashBeforeLink, "crash-before-link", false, "for tests: exit with status 3 at once")
	flag.BoolVar(&cfg.crashAfterLink, "crash-after-link", false, "for tests: exit with status 3 when the instance is running")
	flag.BoolVar(&cfg.neverLink, "never-link", false, "for tests: do nothing until told to stop")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), usage)
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 0 || cfg.rounds < 1 || cfg.roundTime <= 0 {
		flag.Usage()
		os.Exit(2)
	}
	level := slog.LevelInfo
	if cfg.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, cfg, log)
	stop()
	switch {
	case errors.Is(err, errCrash):
		os.Exit(exitCrash)
	case err != nil:
		fmt.Fprintln(os.Stderr, "gameserver:", err)
		os.Exit(1)
	}
}

var errCrash = errors.New("crash")

// run is the life of the server. Being told to stop is no failure.
func run(ctx context.Context, cfg config, log *slog.Logger) error {
	if cfg.crashBeforeLink {
		return errCrash
	}
	if cfg.neverLink {
		<-ctx.Done()
		return nil
	}
	doc, err := bootstrap.Find(ctx)
	if err != nil {
		return err
	}
	// Listen first: as soon as the server has linked, players may come.
	listener, opts, err := listen(ctx, doc, cfg.listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	opts = append(opts, gameserver.WithBootstrap(doc), gameserver.WithLogger(log), gameserver.WithVersion("example 1"))
	server, err := gameserver.Connect(ctx, opts...)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer func() {
		leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		if err := server.Close(leave); err != nil {
			log.Warn("leaving took too long", "error", err)
		}
	}()
	log.Info("linked", "instance_id", doc.Instance, "address", listener.Addr().String(), "invited", len(server.Instance().GetPlayers()))

	if err := server.ConnectPlayers(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if cfg.crashAfterLink {
		os.Exit(exitCrash) //nolint:gocritic // as a crash does it: without a word to Berth
	}
	return newMatch(server, cfg.rules, log).play(ctx, listener)
}

// listen opens the port that players come to, and returns what Berth must be told of it.
func listen(ctx context.Context, doc *bootstrap.Document, address string) (net.Listener, []gameserver.Option, error) {
	game, known := doc.Endpoint("game")
	if address == "" {
		if !known {
			address = "127.0.0.1:0" // started by hand, and nobody has said where
		} else {
			// The endpoint's host is what players see; only on one machine is it also where to listen.
			host := ""
			if ip := net.ParseIP(game.Host); ip != nil && ip.IsLoopback() {
				host = game.Host
			}
			address = net.JoinHostPort(host, strconv.Itoa(int(game.Port)))
		}
		known = known && game.Protocol == "tcp"
	} else {
		known = false
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, nil, err
	}
	if known {
		return listener, nil, nil
	}
	host, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return nil, nil, errors.Join(err, listener.Close())
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, nil, errors.Join(err, listener.Close())
	}
	here := &typev1.Endpoint{Name: "game", Host: host, Port: uint32(number), Protocol: typev1.Protocol_PROTOCOL_TCP}
	return listener, []gameserver.Option{gameserver.WithEndpoints(here)}, nil
}
