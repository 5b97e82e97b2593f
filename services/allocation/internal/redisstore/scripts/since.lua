-- Says since when servers of a provider have been seen without an allocation.
-- KEYS  1 orphans of the provider (as in note.lua)
-- ARGV  1… attempts
-- Returns {now in µs, since when the first, the second …}; now for those that have not been seen.
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000000 + t[2])
local reply = {now}
for n = 1, #ARGV do reply[n + 1] = redis.call('HGET', KEYS[1], ARGV[n]) or now end
return reply
