-- Reads what operators have set for providers, with the time by which moves are due.
-- KEYS  1 settings (as in set_provider.lua)
-- Returns {now in µs, provider, value, …}.
local t = redis.call('TIME')
local reply = redis.call('HGETALL', KEYS[1])
table.insert(reply, 1, string.format('%.0f', t[1] * 1000000 + t[2]))
return reply
