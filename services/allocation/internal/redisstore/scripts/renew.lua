-- Prolongs a lease that is still the owner's.
-- KEYS  1 leases   2 due (as in commit.lua)
-- ARGV  1 id   2 owner   3 length of the lease, µs
-- Returns 1, or 0 when somebody else has the allocation.
local lease = redis.call('HGET', KEYS[1], ARGV[1])
if not lease or string.match(lease, '^%d+ (.*)$') ~= ARGV[2] then return 0 end
local t = redis.call('TIME')
local till = string.format('%.0f', t[1] * 1000000 + t[2] + tonumber(ARGV[3]))
redis.call('HSET', KEYS[1], ARGV[1], till .. ' ' .. ARGV[2])
redis.call('ZADD', KEYS[2], till, ARGV[1])
return 1
