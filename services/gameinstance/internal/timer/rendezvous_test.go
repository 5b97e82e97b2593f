package timer

import (
	"slices"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

func TestAReplicaThatLeavesMovesOnlyItsOwnPartitions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		live := rapid.SliceOfNDistinct(rapid.StringN(1, 40, -1), 2, 12, rapid.ID[string]).Draw(t, "live")
		gone := rapid.IntRange(0, len(live)-1).Draw(t, "gone")
		left := slices.Delete(slices.Clone(live), gone, gone+1)
		for p := range 256 {
			before, after := owner(live, p), owner(left, p)
			if before != live[gone] && before != after {
				t.Fatalf("partition %d went from %q to %q, and neither of them left", p, before, after)
			}
			if !slices.Contains(left, after) {
				t.Fatalf("partition %d went to %q", p, after)
			}
		}
	})
}

func TestEachPartitionHasOneOwnerInWhateverOrderReplicasAreNamed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		live := rapid.SliceOfNDistinct(rapid.StringN(1, 40, -1), 1, 12, rapid.ID[string]).Draw(t, "live")
		other := rapid.Permutation(live).Draw(t, "other order")
		var all []int
		for _, replica := range live {
			mine := owned(replica, live, 64)
			if !slices.Equal(mine, owned(replica, other, 64)) {
				t.Fatalf("%q owns other partitions in another order", replica)
			}
			all = append(all, mine...)
		}
		slices.Sort(all)
		if len(all) != 64 || all[0] != 0 || len(slices.Compact(all)) != 64 {
			t.Fatalf("owned: %v", all)
		}
	})
}

func TestPartitionsAreSpreadEvenly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		live := make([]string, rapid.IntRange(2, 8).Draw(t, "replicas"))
		seed := rapid.Uint64().Draw(t, "seed")
		for n := range live {
			live[n] = uuid.NewSHA1(uuid.Nil, []byte{byte(n), byte(seed), byte(seed >> 8), byte(seed >> 16)}).String()
		}
		const partitions = 4096
		for _, replica := range live {
			if got, fair := len(owned(replica, live, partitions)), partitions/len(live); got < fair*3/4 || got > fair*5/4 {
				t.Fatalf("%d of %d partitions for one of %d replicas", got, partitions, len(live))
			}
		}
	})
}
