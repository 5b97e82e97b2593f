-- Ends the life of a gateway whose lease has run out, before its links are seen to: from now on it cannot renew, whoever goes on with them.
--
-- KEYS 1 leases (zset by end)
-- ARGV 1 id of the gateway
-- Returns 1 if the life is over, 0 if the lease was renewed meanwhile, or is not known.
local now = redis.call('TIME')
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not ends or tonumber(ends) > now[1] * 1000000 + now[2] then return 0 end
redis.call('ZADD', KEYS[1], '0', ARGV[1])
return 1
