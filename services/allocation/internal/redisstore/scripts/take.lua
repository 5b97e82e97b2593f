-- Takes a slot of a provider for an allocation, or takes it anew.
-- KEYS  1 slots of the provider (zset: allocation id by µs at which it was taken last)
-- ARGV  1 id   2 how many there are, 0 for no limit
-- Returns 1, or 0 when all are taken.
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and tonumber(ARGV[2]) > 0 and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
local t = redis.call('TIME')
redis.call('ZADD', KEYS[1], string.format('%.0f', t[1] * 1000000 + t[2]), ARGV[1])
return 1
