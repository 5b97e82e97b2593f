-- Takes an allocation out of a line.
-- KEYS  1 line   2 all lines of the build (as in enter.lua)
-- ARGV  1 id   2 where
-- Returns 1, or 0 when it was not in it.
redis.call('ZREM', KEYS[2], ARGV[2] .. ' ' .. ARGV[1])
return redis.call('ZREM', KEYS[1], ARGV[1])
