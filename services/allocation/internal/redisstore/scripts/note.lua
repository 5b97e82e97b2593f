-- Notes for a look which servers of a provider have no allocation, and since when, by the look before.
-- KEYS  1 orphans of the provider (hash: attempt to µs)   2 the same as this look notes it
-- ARGV  1 for how long they are remembered without another look, s   2… attempts that are orphans
-- Returns 1.
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000000 + t[2])
for n = 2, #ARGV do redis.call('HSET', KEYS[2], ARGV[n], redis.call('HGET', KEYS[1], ARGV[n]) or now) end
redis.call('EXPIRE', KEYS[2], ARGV[1])
return 1
