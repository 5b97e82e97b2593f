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

// slotsKey is a zset of the allocations that may have a server at a provider, by when the slot was taken, in µs. It lives in the partition of the provider's name.
func slotsKey(partition int, provider string) string {
	return redisx.Key(partition, "alloc:slots:"+provider)
}

// lineKey is a zset of the allocations that wait for the same places, by whose turn it is first. It lives in the partition of the build's name, as do the next two.
func lineKey(partition int, build, where string) string {
	return redisx.Key(partition, "alloc:line:"+build+":"+where)
}

// waitingKey is a zset of all allocations that wait for a build, "where id", by since when, in µs.
func waitingKey(partition int, build string) string {
	return redisx.Key(partition, "alloc:waiting:"+build)
}

// linesKey is a set of the lines of a build that are not empty: "where".
func linesKey(partition int, build string) string { return redisx.Key(partition, "alloc:lines:"+build) }

// settingsKey is a hash of providers to what operators have set for them.
func settingsKey() string { return redisx.Key(0, "alloc:providers") }

// orphansKey is a hash of attempts to since when the provider's server of each has been an orphan, in µs.
func orphansKey(provider string) string { return redisx.Key(0, "alloc:orphans:"+provider) }

// lookKey is the same as one look notes it, in the place of the other when the look has ended.
func lookKey(provider, look string) string { return orphansKey(provider) + ":" + look }

// leadKey names the replica that does something for all.
func leadKey(what string) string { return redisx.Key(0, "alloc:lead:"+what) }

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
