-- Forgets a server of a pool, unless it has instances, or has connected or joined since it was looked at. It has to join again before it connects.
--
-- KEYS 1 server (hash)   2 registered servers of the namespace (zset by time)
-- ARGV 1 server id   2 epoch of its session   3 when it joined, in us   4 for how long its session is remembered, in seconds
-- Returns 1 if it is forgotten.
local kept = redis.call('HMGET', KEYS[1], 'server', 'used', 'epoch', 'join')
if not kept[1] then return 1 end
if kept[2] ~= '0' or (kept[3] or '0') ~= ARGV[2] or kept[4] ~= ARGV[3] then return 0 end
redis.call('HDEL', KEYS[1], 'server', 'ns', 'cap', 'used', 'made', 'join', 'drain')
redis.call('HSET', KEYS[1], 'left', '1')
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
