-- Takes an allocation out of a line, or only one that has not come back into it since.
-- KEYS  1 line   2 all who wait for the build   3 lines of the build (as in enter.lua)
-- ARGV  1 id   2 where   3 since when it waits, µs; empty: whenever
-- Returns 1, or 0 when it was not in it.
local member = ARGV[2] .. ' ' .. ARGV[1]
if ARGV[3] ~= '' then
  local since = redis.call('ZSCORE', KEYS[2], member)
  if since and tonumber(since) ~= tonumber(ARGV[3]) then return 0 end
end
redis.call('ZREM', KEYS[2], member)
local left = redis.call('ZREM', KEYS[1], ARGV[1])
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SREM', KEYS[3], ARGV[2]) end
return left
