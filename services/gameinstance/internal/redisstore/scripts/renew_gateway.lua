-- Renews the lease of a gateway's life, unless that life is over: it was given back, or its links were seen to. A lease that ran out while nobody could
-- renew it, because the store or game-instance was away, is renewed like any other: nothing has come of its end yet.
--
-- KEYS 1 leases (zset by expiry in us)   2 lapsed lives (zset by time)   3 since when leases are known (hash by gateway, in us)
-- ARGV 1 gateway id   2 lease in us, 0: give it back
-- Returns since when the lease is known, in us; 0 if the life is over.
local now = redis.call('TIME')
local us = now[1] * 1000000 + now[2]
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then return '0' end
local expiry = redis.call('ZSCORE', KEYS[1], ARGV[1])
if expiry and tonumber(expiry) == 0 then return '0' end
if ARGV[2] == '0' then
  -- Expires at once: the reaper sees to the links that it leaves behind.
  redis.call('ZADD', KEYS[1], '0', ARGV[1])
else
  redis.call('ZADD', KEYS[1], string.format('%.0f', us + tonumber(ARGV[2])), ARGV[1])
end
redis.call('HSETNX', KEYS[3], ARGV[1], string.format('%.0f', us))
return redis.call('HGET', KEYS[3], ARGV[1])
