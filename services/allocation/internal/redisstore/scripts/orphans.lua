-- Remembers since when servers of a provider have been seen without an allocation, and forgets those that are not any more.
-- KEYS  1 orphans of the provider (hash: attempt to µs)
-- ARGV  1 for how long they are remembered without being seen, s   2… attempts that are orphans now
-- Returns {now in µs, since when the first, the second …}.
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000000 + t[2])
local since, reply = {}, {now}
for n = 2, #ARGV do
  since[n] = redis.call('HGET', KEYS[1], ARGV[n]) or now
  reply[n] = since[n]
end
redis.call('DEL', KEYS[1])
for n = 2, #ARGV do redis.call('HSET', KEYS[1], ARGV[n], since[n]) end
if #ARGV > 1 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return reply
