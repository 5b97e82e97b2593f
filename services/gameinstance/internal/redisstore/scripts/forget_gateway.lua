-- Says that the links of a gateway whose lease ran out were seen to. Its life stays known as lapsed for a while.
--
-- KEYS 1 leases (zset by end)   2 lapsed gateways (zset by time)   3 since when leases are known (hash by gateway, in us)
-- ARGV 1 id of the gateway   2 how long it is remembered, in us
local now = redis.call('TIME')
local us = now[1] * 1000000 + now[2]
redis.call('ZADD', KEYS[2], string.format('%.0f', us), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', us - tonumber(ARGV[2])))
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
return 1
