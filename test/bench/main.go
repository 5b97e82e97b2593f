// Command bench measures Berth and prints one line a figure: name, value, unit and target, tab-separated; progress goes to standard error.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// options say what to measure.
type options struct {
	bin      string
	matches  int
	requests int
	short    bool
	profiles string
	dir      string // of the group, which is empty
}

// group is what is measured together.
type group struct {
	name, about string
	run         func(options) error
}

var groups = []group{
	{"starts", "from creating an instance until its server runs", func(o options) error {
		return onRedis(o.dir, func(redis string) error { return starts(o.bin, o.dir, redis, o.matches) })
	}},
	{"socket", "durable requests a second over one socket", func(o options) error {
		return onRedis(o.dir, func(redis string) error { return oneSocket(o.dir, redis, o.requests) })
	}},
	{"routed", "CPU time of ephemeral messages from a server to a backend and back, beside an echo and two PUBLISH", routed},
	{"durable", "CPU time of durable requests and notifications, beside a commit alone", durable},
	{"ingress", "CPU time of messages of a backend over a stream, beside a call for each", ingress},
	{"memory", "the gateway's memory for each of 10,000 idle links", memory},
	{"parts", "the Go benchmarks of packages that cannot be measured from outside", func(o options) error { return parts(o.short) }},
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "folder with the built binaries")
	flag.IntVar(&o.matches, "matches", 100, "matches to start, one after the other")
	flag.IntVar(&o.requests, "requests", 20000, "requests to send over one socket")
	flag.BoolVar(&o.short, "short", false, "do little of everything: the figures say only that it works")
	flag.StringVar(&o.profiles, "profiles", "", "folder for profiles of the gateway, which explain a figure; taking them costs time, so those figures do not count")
	only := flag.String("only", "", "measure only these groups, with commas between: "+strings.Join(names(), ", "))
	role := flag.String("role", "", "be one of the processes that are measured; bench starts them itself")
	flag.Usage = usage
	flag.Parse()
	if o.short {
		o.matches, o.requests = min(o.matches, 5), min(o.requests, 640)
	}
	err := error(nil)
	if *role != "" {
		err = play(*role, flag.Args())
	} else {
		err = run(o, *only)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func names() []string {
	var all []string
	for _, g := range groups {
		all = append(all, g.name)
	}
	return all
}

func usage() {
	out := flag.CommandLine.Output()
	fmt.Fprintln(out, "Usage: bench [flags]\n\nPrints figures: name, value, unit and target, tab-separated. docs/benchmarks.md says what they are.\n\nFlags:")
	flag.PrintDefaults()
	fmt.Fprintln(out, "\nGroups:")
	for _, g := range groups {
		fmt.Fprintf(out, "  %-8s %s\n", g.name, g.about)
	}
}

func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func figure(name string, value float64, unit, target string) {
	fmt.Printf("%s\t%s\t%s\t%s\n", name, strconv.FormatFloat(value, 'g', 4, 64), unit, target)
}

// run measures the groups that are wanted, each in a folder of its own.
func run(o options, only string) error {
	wanted := map[string]bool{}
	for _, name := range strings.FieldsFunc(only, func(r rune) bool { return r == ',' }) {
		wanted[name] = true
	}
	dir, err := os.MkdirTemp("", "berth-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	for _, g := range groups {
		if only != "" && !wanted[g.name] {
			continue
		}
		delete(wanted, g.name)
		o.dir = filepath.Join(dir, g.name)
		if err := os.Mkdir(o.dir, 0o700); err != nil {
			return err
		}
		if err := g.run(o); err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
	}
	for name := range wanted {
		return fmt.Errorf("there is no group %q; there are %s", name, strings.Join(names(), ", "))
	}
	return nil
}
