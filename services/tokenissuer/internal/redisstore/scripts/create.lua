-- Stores the first key ring, and leaves one that is there already as it is.
-- KEYS  1 the ring (string)
-- ARGV  1 its value
-- Returns 1 if it was stored, 0 if there was one.
return redis.call('SETNX', KEYS[1], ARGV[1])
