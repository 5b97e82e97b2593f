package limit_test

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-dev/berth/services/gateway/internal/limit"
)

// clock is a time that only the test moves.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func newClock() *clock { return &clock{time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)} }

// taken returns how often something could be taken, of so many tries.
func taken(b *limit.Bucket, tries int) (n int) {
	for range tries {
		if b.Take() == 0 {
			n++
		}
	}
	return n
}

func TestABucketHoldsABurstAndFillsWithTime(t *testing.T) {
	c := newClock()
	table := limit.NewTable[string](limit.Rate{PerSecond: 10, Burst: 30}, 100, c.now)
	b := table.Bucket("a")
	if got := taken(b, 100); got != 30 {
		t.Errorf("%d at once", got)
	}
	if wait := b.Take(); wait != 100*time.Millisecond || b.Wait() != wait {
		t.Errorf("said to wait for %v", wait)
	}
	c.at = c.at.Add(100 * time.Millisecond) // exactly as long as was said
	if got := taken(b, 10); got != 1 {
		t.Errorf("%d after a tenth of a second", got)
	}
	c.at = c.at.Add(time.Second)
	if got := taken(b, 100); got != 10 {
		t.Errorf("%d after a second", got)
	}
	c.at = c.at.Add(time.Hour)
	if got := taken(b, 100); got != 30 {
		t.Errorf("%d after an hour", got)
	}
}

func TestWaitTakesNothing(t *testing.T) {
	c := newClock()
	b := limit.NewTable[string](limit.Rate{PerSecond: 1, Burst: 1}, 100, c.now).Bucket("a")
	for range 10 {
		if b.Wait() != 0 {
			t.Fatal("a full bucket has nothing")
		}
	}
	if b.Take() != 0 || b.Wait() == 0 {
		t.Error("the token was there twice, or not at all")
	}
}

func TestEachKeyHasItsOwn(t *testing.T) {
	c := newClock()
	table := limit.NewTable[string](limit.Rate{PerSecond: 1, Burst: 2}, 100, c.now)
	if got := taken(table.Bucket("a"), 9); got != 2 {
		t.Errorf("%d for a", got)
	}
	if got := taken(table.Bucket("b"), 9); got != 2 {
		t.Errorf("%d for b", got)
	}
	if got := taken(table.Bucket("a"), 9); got != 0 {
		t.Errorf("%d more for a", got)
	}
}

func TestARateOfZeroIsNoLimit(t *testing.T) {
	table := limit.NewTable[string](limit.Rate{Burst: 1}, 100, time.Now)
	if got := taken(table.Bucket("a"), 1000); got != 1000 || table.Len() != 0 {
		t.Errorf("%d of 1000, %d buckets", got, table.Len())
	}
}

// Whoever invents keys takes no more memory than the table has, and does not get rid of a limit that is in force by it.
func TestTheTableIsBounded(t *testing.T) {
	const size, keys = 1000, 100_000
	c := newClock()
	table := limit.NewTable[int](limit.Rate{PerSecond: 1, Burst: 1}, size, c.now)
	inUse := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := inUse()
	for key := range keys {
		table.Bucket(key).Take()
		if n := taken(table.Bucket(-1), 1); n != 0 && key > 0 {
			t.Fatalf("after %d others the one that floods has a new bucket", key)
		}
	}
	if n := table.Len(); n != size {
		t.Errorf("%d buckets", n)
	}
	if after := inUse(); after > before+size*1000 {
		t.Errorf("%d bytes for %d buckets", after-before, size)
	}
	runtime.KeepAlive(table)
}

func TestManyAtOnceGetNoMoreThanOne(t *testing.T) {
	c := newClock()
	table := limit.NewTable[string](limit.Rate{PerSecond: 100, Burst: 500}, 10, c.now)
	var all sync.WaitGroup
	var got atomic.Int64
	for range 20 {
		all.Go(func() {
			for range 200 {
				if table.Bucket("a").Take() == 0 {
					got.Add(1)
				}
			}
		})
	}
	all.Wait()
	if got.Load() != 500 {
		t.Errorf("%d of a burst of 500", got.Load())
	}
	c.at = c.at.Add(time.Second) // what was refused is not owed
	if n := taken(table.Bucket("a"), 500); n != 100 {
		t.Errorf("%d after a second", n)
	}
}
