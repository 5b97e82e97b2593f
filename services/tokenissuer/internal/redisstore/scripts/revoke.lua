-- Stores a revocation, drops those that have expired, and tells whoever listens.
-- KEYS  1 entries (hash: id to "CREATED:EXPIRES:VERSION:" and JSON, times in us)   2 expiry (zset: id by us)   3 version (string)
-- ARGV  1 id   2 JSON   3 how long it is kept in us   4 limit of entries, 0 for none   5 a time in us that must have come; 0 for none   6 channel
-- Returns {"OK", entry}, {"FULL"} or {"FUTURE"}.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local int = function(n) return string.format('%.0f', n) end
if tonumber(ARGV[5]) > now then return {'FUTURE'} end
local expired = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', int(now), 'LIMIT', 0, 1000)
local count = redis.call('HLEN', KEYS[1]) - #expired
local old = redis.call('HGET', KEYS[1], ARGV[1])
if not old and tonumber(ARGV[4]) > 0 and count >= tonumber(ARGV[4]) then return {'FULL'} end

if #expired > 0 then
  redis.call('HDEL', KEYS[1], unpack(expired))
  redis.call('ZREM', KEYS[2], unpack(expired))
end
local expires = now + tonumber(ARGV[3])
if old then expires = math.max(expires, tonumber(string.match(old, '^%d+:(%d+):'))) end
local version = int(math.max(tonumber(redis.call('GET', KEYS[3]) or '0') + 1, now))
local entry = int(now) .. ':' .. int(expires) .. ':' .. version .. ':' .. ARGV[2]
redis.call('HSET', KEYS[1], ARGV[1], entry)
redis.call('ZADD', KEYS[2], int(expires), ARGV[1])
redis.call('SET', KEYS[3], version)
redis.call('PUBLISH', ARGV[6], version)
return {'OK', entry}
