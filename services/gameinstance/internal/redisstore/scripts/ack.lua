-- Drops what a server has dealt with from an instance's mailbox. A link that is older than the last fresh one drops nothing.
--
-- KEYS 1 instance (hash)   2 mailbox (zset)   3 undelivered mailboxes (zset)
-- ARGV 1 instance id   2 offset, included   3 epoch of the link that acknowledges
-- Returns how many entries were dropped.
local fence = redis.call('HGET', KEYS[1], 'fence')
if fence and tonumber(ARGV[3]) < tonumber(fence) then return 0 end
local offset = tonumber(ARGV[2])
local newest = tonumber(redis.call('HGET', KEYS[1], 'off') or '0')
if offset > newest then offset = newest end
local size = tonumber(redis.call('HGET', KEYS[1], 'mail') or '0')
local dropped = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', offset))
for _, entry in ipairs(dropped) do
  local _, numbers = string.find(string.sub(entry, 1, 40), '^%d+:%d+:') -- an entry may be large, its two numbers are not
  size = size - (#entry - (numbers or 0))
  redis.call('ZREM', KEYS[2], entry)
end
dropped = #dropped
if dropped > 0 then redis.call('HSET', KEYS[1], 'mail', string.format('%.0f', math.max(size, 0))) end
if redis.call('ZCARD', KEYS[2]) == 0 then
  redis.call('ZREM', KEYS[3], ARGV[1])
elseif dropped > 0 and redis.call('ZSCORE', KEYS[3], ARGV[1]) then
  local now = redis.call('TIME')
  redis.call('ZADD', KEYS[3], string.format('%.0f', now[1] * 1000000 + now[2]), ARGV[1])
end
return dropped
