package timer

import "hash/fnv"

// owned returns the partitions that a replica wins among the live ones. Each partition goes to the replica with the highest weight for it, so that one
// that comes or goes moves only its own partitions. It is a hint and no lock: replicas with different views sweep a partition twice, or for a while not
// at all, and the full sweep comes behind.
func owned(self string, live []string, partitions int) []int {
	out := make([]int, 0, partitions/max(len(live), 1)+1)
	for p := range partitions {
		if owner(live, p) == self {
			out = append(out, p)
		}
	}
	return out
}

// owner returns the replica that wins a partition; "" among none.
func owner(live []string, partition int) string {
	best, most := "", uint64(0)
	for _, replica := range live {
		if w := weight(replica, partition); best == "" || w > most {
			best, most = replica, w
		}
	}
	return best
}

// weight mixes a replica's hash with a partition so that neighbouring partitions get unrelated weights (the finisher of SplitMix64).
func weight(replica string, partition int) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(replica)) // fnv never fails
	x := h.Sum64() + uint64(partition+1)*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
