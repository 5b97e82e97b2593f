-- Reads who comes first in a line.
-- KEYS  1 line   2 all who wait for the build (as in enter.lua)
-- ARGV  1 where   2 how many at most
-- Returns {id, since when it waits in µs, id, µs, …}.
local reply = {}
for n, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[2]) - 1)) do
  reply[2 * n - 1] = id
  reply[2 * n] = redis.call('ZSCORE', KEYS[2], ARGV[1] .. ' ' .. id) or ''
end
return reply
