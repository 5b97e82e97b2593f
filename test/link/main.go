// Command link checks implementations of the link protocol: a gateway with a scripted client, or an SDK with a scripted gateway. docs/conformance.md says how.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/test/link/kit"
)

const usage = `usage: link gateway [flags]
       link sdk [flags] -- PROGRAM [ARGUMENT...]

Checks a gateway, or an SDK by a program that is made with it. The exit status is 1 if a statement does not hold, and 2 if it could not be checked.
docs/conformance.md says what both have to provide.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	results, err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "link:", err)
		os.Exit(2)
	}
	kit.Print(os.Stdout, results)
	if kit.Failed(results) {
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) ([]kit.Result, error) {
	if len(args) == 0 {
		return nil, fmt.Errorf("what is to be checked?\n%s", usage)
	}
	flags := flag.NewFlagSet("link "+args[0], flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage, "\nflags:\n")
		flags.PrintDefaults()
	}
	level := flags.Int("level", 2, "check statements up to this level: 1 or 2")
	switch args[0] {
	case "gateway":
		return gateway(ctx, flags, level, args[1:])
	case "sdk":
		if err := flags.Parse(args[1:]); err != nil {
			return nil, err
		}
		if flags.NArg() == 0 {
			return nil, errors.New("name the program to check: link sdk -- PROGRAM")
		}
		return kit.SDK{Command: flags.Args(), Level: *level, Log: os.Stderr}.Check(ctx), nil
	default:
		return nil, fmt.Errorf("%q is neither gateway nor sdk\n%s", args[0], usage)
	}
}

// gateway checks a gateway.
func gateway(ctx context.Context, flags *flag.FlagSet, level *int, args []string) ([]kit.Result, error) {
	url := flags.String("url", "", "the gateway's base URL, if not that of the bootstrap documents")
	subprotocol := flags.String("subprotocol", "berth.v1.proto", "berth.v1.proto or berth.v1.json")
	command := flags.String("bootstrap-command", "", "`command` that prints the bootstrap document of a game server that nobody has linked yet: another one each time. Required")
	notify := flags.String("notify-command", "", "`command` that changes the game data of the instance whose id follows it, as a backend does; without it some checks are skipped")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if *command == "" {
		return nil, errors.New("--bootstrap-command is missing: most checks need a game server of their own")
	}
	g := kit.Gateway{Subprotocol: *subprotocol, Level: *level}
	g.Bootstrap = func(ctx context.Context) (*bootstrap.Document, error) {
		out, err := output(ctx, *command)
		if err != nil {
			return nil, err
		}
		doc, err := bootstrap.Parse(out)
		if err == nil && *url != "" {
			doc.Gateway = strings.Replace(*url, "ws", "http", 1)
		}
		return doc, err
	}
	if *notify != "" {
		g.Notify = func(ctx context.Context, id string) error {
			_, err := output(ctx, *notify+" "+id)
			return err
		}
	}
	return g.Check(ctx), nil
}

// output runs a command of the shell's and returns what it prints.
func output(ctx context.Context, command string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", command, err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}
