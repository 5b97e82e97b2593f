package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
)

// benchmarked are packages whose parts cannot be measured from outside: all of their Go benchmarks are run, and their results are figures.
var benchmarked = []string{
	"./services/gameinstance/internal/redisstore", "./services/tokenissuer/internal/token", "./sdk/go/token", "./services/gateway/internal/session", "./test/e2e",
}

// targets of figures that have one.
var targets = map[string]string{
	"commit_fast_1000_instances_to_1":         "<=1.1",
	"commit_fast_100000_instances_to_1":       "<=1.1",
	"commit_fast_1000_players_to_2":           "<=1.5",
	"commit_replicated_1000_instances_to_1":   "<=1.1",
	"commit_replicated_100000_instances_to_1": "<=1.1",
	"commit_replicated_1000_players_to_2":     "<=1.5",
	"issuepair_to_two_bare":                   "<=1.5",
	"verifypair_to_two_bare":                  "<=1.3",
	"revocation_p99":                          "<1000",
}

// parts runs the Go benchmarks.
func parts(short bool) error {
	progress("the parts, among 100,000 instances: some minutes")
	args := append([]string{"test", "-p", "1", "-run", "^$", "-bench", ".", "-timeout", "15m", "-short=" + strconv.FormatBool(short)}, benchmarked...)
	cmd := exec.Command("go", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	said := translate(out)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, said)
	}
	return nil
}

// translate prints the figures among what `go test` says, and returns the rest of it.
func translate(out io.Reader) (rest string) {
	var others strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if figures := result(lines.Text()); figures != nil {
			for _, f := range figures {
				figure(f.name, f.value, f.unit, f.target())
			}
		} else {
			others.WriteString(lines.Text() + "\n")
		}
	}
	return others.String()
}

type measured struct {
	name  string
	value float64
	unit  string
}

func (m measured) target() string {
	if t, ok := targets[m.name]; ok {
		return t
	}
	return "-"
}

// result reads a benchmark's line: its name, how often it ran, and pairs of a value and a unit. A unit of the form "name:unit" is a figure that the benchmark
// names itself.
func result(line string) []measured {
	words := strings.Fields(line)
	if len(words) < 4 || !strings.HasPrefix(words[0], "Benchmark") {
		return nil
	}
	benchmark := figureName(words[0])
	var all []measured
	for n := 2; n+1 < len(words); n += 2 {
		value, err := strconv.ParseFloat(words[n], 64)
		if err != nil {
			return nil
		}
		m := measured{benchmark, value, words[n+1]}
		if name, unit, ok := strings.Cut(m.unit, ":"); ok {
			m.name, m.unit = benchmark+"_"+name, unit
		}
		all = append(all, m)
	}
	return all
}

// figureName makes BenchmarkReads/list-50-2, where 2 is the number of processors, into reads_list_50.
func figureName(benchmark string) string {
	name := strings.TrimPrefix(benchmark, "Benchmark")
	if n := runtime.GOMAXPROCS(0); n > 1 {
		name = strings.TrimSuffix(name, fmt.Sprintf("-%d", n))
	}
	return strings.ToLower(strings.NewReplacer("/", "_", "-", "_").Replace(name))
}
