-- Notes which servers of a pool are there, and forgets others, unless they were noted or joined since they were looked at.
--
-- KEYS 1 pool (zset: server by when it was last known to be there, in us)   2 pools of the partition (set)
-- ARGV 1 pool   2 how many are there   3… those that are, and then of each that is not: its id and when it was last there, as it was looked at
-- Returns how many were forgotten.
local now = redis.call('TIME')
local us = string.format('%.0f', now[1] * 1000000 + now[2])
local there, gone = tonumber(ARGV[2]), 0
for n = 3, 2 + there do
  redis.call('ZADD', KEYS[1], 'XX', us, ARGV[n])
end
for n = 3 + there, #ARGV, 2 do
  if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[n]) or '0') == tonumber(ARGV[n + 1]) then
    gone = gone + redis.call('ZREM', KEYS[1], ARGV[n])
  end
end
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SREM', KEYS[2], ARGV[1]) end
return gone
