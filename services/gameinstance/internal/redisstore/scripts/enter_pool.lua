-- Makes a server one of a pool, if the pool has room for it.
--
-- KEYS 1 pool (zset: server by when it was last known to be there, in us)   2 pools of the partition (set)
-- ARGV 1 server id   2 pool   3 how many servers a pool may have
-- Returns 1, or 0 if the pool is full.
local now = redis.call('TIME')
local us = string.format('%.0f', now[1] * 1000000 + now[2])
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
redis.call('ZADD', KEYS[1], us, ARGV[1])
redis.call('SADD', KEYS[2], ARGV[2])
return 1
