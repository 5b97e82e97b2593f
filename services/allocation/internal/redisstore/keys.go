package redisstore

import (
	"fmt"

	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
)

// An allocation lives in the partition of its instance.
func (s *Store) partition(id string) int { return s.redis.Partition(ids.AttemptInstance(id)) }

// recordKey is a hash: rev, and head, an AllocationRecord.
func recordKey(partition int, id string) string { return redisx.Key(partition, "alloc:r:"+id) }

// dueKey is a zset of ids by the time, in µs, at which a worker has to look at them.
func dueKey(partition int) string { return redisx.Key(partition, "alloc:due") }

// leaseKey is a hash of ids to "until owner" (until in µs).
func leaseKey(partition int) string { return redisx.Key(partition, "alloc:lease") }

// indexKey is a zset, ordered by member, of the allocations of one namespace in one partition.
func indexKey(partition int, namespace string) string {
	return redisx.Key(partition, "alloc:ns:"+namespace)
}

// indexMember orders allocations by their creation, and is a cursor.
func indexMember(a *allocator.Allocation) string {
	return fmt.Sprintf("%016x:%s", a.CreateTime.UnixMicro(), a.ID)
}

// memberID returns the id in a member of an index; empty if it is none.
func memberID(member string) string {
	if len(member) < 18 || member[16] != ':' {
		return ""
	}
	return member[17:]
}
