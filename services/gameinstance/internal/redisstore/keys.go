// Package redisstore keeps instances, sessions and leases of gateways in Redis. It returns errors of the domain and knows nothing of gRPC.
package redisstore

import (
	"fmt"

	"github.com/berth-dev/berth/pkg/redisx"
)

// Every key that game-instance writes is built here. docs/redis.md describes them.

// Keys of a partition that concern one instance.
func instanceKey(p int, id string) string { return redisx.Key(p, "i:"+id) }
func commandsKey(p int, id string) string { return redisx.Key(p, "i:"+id+":c") }
func orderKey(p int, id string) string    { return redisx.Key(p, "i:"+id+":o") }
func linkedKey(p int, id string) string   { return redisx.Key(p, "i:"+id+":l") }
func historyKey(p int, id string) string  { return redisx.Key(p, "i:"+id+":h") }
func mailboxKey(p int, id string) string  { return redisx.Key(p, "i:"+id+":m") }
func saidKey(p int, id string) string     { return redisx.Key(p, "i:"+id+":s") }

// Keys of a partition that concern all its instances.
func timersKey(p int) string           { return redisx.Key(p, "timers") }
func undeliveredKey(p int) string      { return redisx.Key(p, "undelivered") }
func linksKey(p int) string            { return redisx.Key(p, "links") }
func lostKey(p int) string             { return redisx.Key(p, "lost") }
func changedKey(p int) string          { return redisx.Key(p, "changed") }
func goneKey(p int) string             { return redisx.Key(p, "gone") }
func sweptKey(p int) string            { return redisx.Key(p, "swept") }
func indexKey(p int, ns string) string { return redisx.Key(p, "idx:"+ns) }
func talkKey(p int, ns string) string  { return redisx.Key(p, "said:"+ns) }

// Keys of a partition that concern game servers.
func serverKey(p int, s string) string   { return redisx.Key(p, "s:"+s) }
func serversKey(p int, ns string) string { return redisx.Key(p, "servers:"+ns) }
func assignedKey(p int) string           { return redisx.Key(p, "assigned") }

// Keys of a partition that concern warm pools: those of the pool's name, and the one of the attempt's instance.
func poolsKey(p int) string           { return redisx.Key(p, "pools") }
func poolKey(p int, n string) string  { return redisx.Key(p, "pool:"+n) }
func placeKey(p int, a string) string { return redisx.Key(p, "place:"+a) }

// The lease keys share a slot.
const (
	leasesKey = "berth:{gateways}:leases"
	lapsedKey = "berth:{gateways}:lapsed"
	knownKey  = "berth:{gateways}:known"
)

// membersKey has the replicas that sweep.
const membersKey = "berth:{sweepers}:members"

// changesChannel is a partition's channel for change hints.
func changesChannel(p int) string { return fmt.Sprintf("berth:changes:%03d", p) }
