-- Says how many wait for a build, for how long, and in which lines.
-- KEYS  1 all who wait for the build   2 lines of the build (as in enter.lua)
-- Returns {how many, for how long the first of them in µs, where, where, …}.
local t = redis.call('TIME')
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local reply = redis.call('SMEMBERS', KEYS[2])
table.insert(reply, 1, string.format('%.0f', first[2] and math.max(0, t[1] * 1000000 + t[2] - tonumber(first[2])) or 0))
table.insert(reply, 1, string.format('%.0f', redis.call('ZCARD', KEYS[1])))
return reply
