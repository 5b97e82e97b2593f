-- Drops what backends have dealt with of an instance's messages to them.
--
-- KEYS 1 instance (hash)   2 messages to backends (zset by offset)   3 instances of the namespace with such (zset by their newest offset)
-- ARGV 1 instance id   2 offset, included   3 channel for the change hint
-- Returns how many were dropped.
local dropped, count, bytes = 0, 0, 0
local newest, kept, size = string.match(redis.call('HGET', KEYS[1], 'said') or '', '^(%d+):(%d+):(%d+)$')
if not newest then return 0 end
for _, entry in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[2])) do
  local _, number = string.find(string.sub(entry, 1, 24), '^%d+:') -- an entry may be large, its number is not
  dropped, bytes = dropped + 1, bytes + #entry - number
end
if dropped == 0 then return 0 end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[2])
count, bytes = redis.call('ZCARD', KEYS[2]), math.max(tonumber(size) - bytes, 0)
redis.call('HSET', KEYS[1], 'said', string.format('%s:%.0f:%.0f', newest, count, bytes))
if count == 0 then redis.call('ZREM', KEYS[3], ARGV[1]) end
-- Who watches the messages wants to know that none waits any more.
redis.call('PUBLISH', ARGV[3], ARGV[1])
return dropped
