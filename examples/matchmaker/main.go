// Command matchmaker is a small matchmaker on Berth's gRPC API, as a game's backend would have it: it creates a match, waits for
// its server, sends players there and reads the result. For want of people it plays them, too.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const usage = `usage: matchmaker [flags]

Plays one match: creates a game instance, waits until its server is up, lets players connect and play, turns up with somebody who
is not invited, waits for the result and prints what happened when.

environment:
  BERTH_API       address of game-instance's gRPC, host:port
  BERTH_API_KEY   the API key

flags:
`

func main() {
	var cfg config
	var address string
	var timeline bool
	flag.StringVar(&address, "api", os.Getenv("BERTH_API"), "`address` of game-instance's gRPC")
	flag.StringVar(&cfg.build, "build", "example", "build to run")
	flag.StringVar(&cfg.namespace, "namespace", "default", "namespace of the match")
	flag.IntVar(&cfg.players, "players", 3, "how many players")
	flag.BoolVar(&timeline, "timeline", true, "print what happened when")
	flag.DurationVar(&cfg.timeout, "timeout", time.Minute, "how long the whole match may take")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), usage)
		flag.PrintDefaults()
	}
	flag.Parse()
	key := os.Getenv("BERTH_API_KEY")
	if wrong := check(address, key, cfg.players, flag.Args()); wrong != "" {
		fmt.Fprintf(os.Stderr, "matchmaker: %s; matchmaker -h shows how it is used\n", wrong)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, address, key, cfg, timeline)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "matchmaker:", err)
		os.Exit(1)
	}
}

// check says what is wrong with how it was called, "" if nothing is.
func check(address, key string, players int, rest []string) string {
	switch {
	case len(rest) > 0:
		return fmt.Sprintf("takes flags only, not %q", rest[0])
	case address == "":
		return "--api or BERTH_API must name the address of game-instance's gRPC, such as 127.0.0.1:7101"
	case key == "":
		return "BERTH_API_KEY must have the API key, which berth dev prints"
	case players < 1:
		return fmt.Sprintf("--players must be at least 1, not %d", players)
	default:
		return ""
	}
}

// run plays one match and prints how it went, also when it went wrong.
func run(ctx context.Context, address, key string, cfg config, timeline bool) error {
	conn, err := grpc.NewClient(address, dialOptions(key)...)
	if err != nil {
		return err
	}
	defer conn.Close()
	m := newMatch(instancev1.NewGameInstanceServiceClient(conn), cfg)
	result, err := m.play(ctx)
	if timeline {
		m.steps.print(os.Stdout)
	}
	if err != nil {
		return err
	}
	fmt.Printf("\nresult: %s won; scores %v after %d rounds\n", result.Winner, result.Scores, result.Rounds)
	return nil
}

func dialOptions(key string) []grpc.DialOption {
	return []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(apiKey(key))}
}

// apiKey is sent with every call.
type apiKey string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (k apiKey) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(k)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials. Inside a studio's network the API may be without TLS.
func (apiKey) RequireTransportSecurity() bool { return false }
