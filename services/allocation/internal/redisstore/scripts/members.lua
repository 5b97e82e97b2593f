-- Lists slots, by the clock that take.lua goes by.
-- KEYS  1 slots of the provider (as in take.lua)
-- ARGV  1 how long ago they were taken at least, µs   2 how many to leave out   3 how many at most
-- Returns {id, µs, id, µs, ...}, the oldest first.
local t = redis.call('TIME')
local till = string.format('%.0f', t[1] * 1000000 + t[2] - tonumber(ARGV[1]))
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', till, 'WITHSCORES', 'LIMIT', ARGV[2], ARGV[3])
