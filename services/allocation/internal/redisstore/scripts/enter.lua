-- Puts an allocation into the line of those who wait for the same places, or leaves it where it is.
-- KEYS  1 line (zset: allocation id by turn, µs)   2 all who wait for the build (zset: "where id" by since when, µs)   3 lines of the build (set: where)
-- ARGV  1 id   2 where   3 turn, µs   4 since when it waits, µs   5 how many may wait for the build
-- Returns 1, or 0 when that many wait.
local member = ARGV[2] .. ' ' .. ARGV[1]
if not redis.call('ZSCORE', KEYS[2], member) and redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[5]) then return 0 end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[4], member)
redis.call('SADD', KEYS[3], ARGV[2])
return 1
