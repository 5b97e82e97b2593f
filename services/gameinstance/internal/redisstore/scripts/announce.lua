-- Says that a replica lives, and forgets those that have not said so lately.
--
-- KEYS 1 members (zset: replica by the time of its last announcement in us)
-- ARGV 1 replica   2 how long an announcement counts in us, 0: take it back
-- Returns the replicas that live.
local now = redis.call('TIME')
local us = now[1] * 1000000 + now[2]
local int = function(n) return string.format('%.0f', n) end
if ARGV[2] == '0' then
  redis.call('ZREM', KEYS[1], ARGV[1])
  return {}
end
redis.call('ZADD', KEYS[1], int(us), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. int(us - tonumber(ARGV[2])))
-- From before a clock was set back; who lives says so again.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. int(us), '+inf')
return redis.call('ZRANGE', KEYS[1], '0', '-1')
