-- Finds what is due in a partition, by the clock that claim.lua goes by.
-- KEYS  1 due (as in commit.lua)
-- ARGV  1 how many at most
-- Returns their ids, the longest due first.
local t = redis.call('TIME')
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', t[1] * 1000000 + t[2]), 'LIMIT', 0, ARGV[1])
