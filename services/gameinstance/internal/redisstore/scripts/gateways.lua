-- Reads which gateways' leases have run out, and whether one stands.
--
-- KEYS 1 leases (zset by end)
-- ARGV 1 id of a gateway, or ""
-- Returns {1 if that gateway's lease stands, ids of the gateways that gave theirs back, ids of those whose lease ran out}.
local now = redis.call('TIME')
local us = string.format('%.0f', now[1] * 1000000 + now[2])
local ends = ARGV[1] ~= '' and redis.call('ZSCORE', KEYS[1], ARGV[1])
return {ends and tonumber(ends) > tonumber(us) and 1 or 0, redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '0'), redis.call('ZRANGEBYSCORE', KEYS[1], '(0', us)}
