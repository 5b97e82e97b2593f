-- Stores an API key, and drops those that have expired.
-- KEYS  1 keys (hash: SHA-256 of the key to "CREATED:EXPIRES:" and JSON, times in us, 0 for never)   2 names (hash: name to SHA-256)
--       3 expiry (zset: name by us)
-- ARGV  1 SHA-256   2 name   3 JSON   4 when it expires in us, 0 for never   5 limit of keys
-- Returns {"OK", entry}, {"PAST"}, {"TAKEN"} or {"FULL"}.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local int = function(n) return string.format('%.0f', n) end
if ARGV[4] ~= '0' and tonumber(ARGV[4]) <= now then return {'PAST'} end

-- Before the checks that count on it; on whatever they decide, what has expired is of no use.
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', int(now))) do
  local hash = redis.call('HGET', KEYS[2], name)
  if hash then redis.call('HDEL', KEYS[1], hash) end
  redis.call('HDEL', KEYS[2], name)
  redis.call('ZREM', KEYS[3], name)
end
if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 1 then return {'TAKEN'} end
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[5]) then return {'FULL'} end

local entry = int(now) .. ':' .. ARGV[4] .. ':' .. ARGV[3]
redis.call('HSET', KEYS[1], ARGV[1], entry)
redis.call('HSET', KEYS[2], ARGV[2], ARGV[1])
if ARGV[4] ~= '0' then redis.call('ZADD', KEYS[3], ARGV[4], ARGV[2]) end
return {'OK', entry}
