-- Reads the key ring.
-- KEYS  1 the ring (string: JSON with its revision in rev)
-- Returns {now in us, the ring, or nothing if there is none}.
local t = redis.call('TIME')
return {string.format('%.0f', t[1] * 1000000 + t[2]), redis.call('GET', KEYS[1])}
