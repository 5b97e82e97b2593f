// Package kit checks implementations of the link protocol (docs/link-protocol.md): gateways with a scripted client, and SDKs with a scripted gateway. See
// docs/conformance.md.
package kit

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

// Result is what came of one check.
type Result struct {
	// Name is the statement that was checked.
	Name string
	// Err is why it does not hold; nil if it does.
	Err error
	// Skipped says why it was not checked; "" if it was.
	Skipped string
}

// Failed reports whether a result is among these whose statement does not hold.
func Failed(results []Result) bool {
	for _, r := range results {
		if r.Err != nil {
			return true
		}
	}
	return false
}

// Print writes results as a table.
func Print(w io.Writer, results []Result) {
	passed, skipped := 0, 0
	for n, r := range results {
		verdict := "PASS"
		switch {
		case r.Err != nil:
			verdict = "FAIL"
		case r.Skipped != "":
			verdict = "SKIP"
			skipped++
		default:
			passed++
		}
		_, _ = fmt.Fprintf(w, "%3d  %s  %s\n", n+1, verdict, r.Name)
		if r.Err != nil {
			_, _ = fmt.Fprintf(w, "           %v\n", r.Err)
		}
		if r.Skipped != "" {
			_, _ = fmt.Fprintf(w, "           %s\n", r.Skipped)
		}
	}
	_, _ = fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", passed, len(results)-passed-skipped, skipped)
}

// failure ends a check.
type failure struct{ error }

// skip ends a check that cannot be made.
type skip struct{ why string }

func fail(format string, args ...any) { panic(failure{fmt.Errorf(format, args...)}) }

// run makes one check, which ends with its time or by a panic of fail.
func run(ctx context.Context, name string, patience time.Duration, check func(context.Context)) (r Result) {
	r.Name = name
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	defer func() {
		switch why := recover().(type) {
		case nil:
		case failure:
			r.Err = why.error
		case skip:
			r.Skipped = why.why
		default:
			panic(why)
		}
	}()
	check(ctx)
	return r
}

// atOnce is how many checks are made at a time: some have to wait for a time-out.
const atOnce = 6

// runAll makes checks, some at a time, and returns their results in order.
func runAll(n int, one func(i int) Result) []Result {
	results := make([]Result, n)
	slots := make(chan struct{}, atOnce)
	var checks sync.WaitGroup
	for i := range results {
		slots <- struct{}{}
		checks.Go(func() {
			defer func() { <-slots }()
			results[i] = one(i)
		})
	}
	checks.Wait()
	return results
}
