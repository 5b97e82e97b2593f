-- Stores revocations that the store has lost, as they were, and tells whoever listens.
-- KEYS  1 entries (hash: id to "CREATED:EXPIRES:VERSION:" and JSON, times in us)   2 expiry (zset: id by us)   3 version (string)
-- ARGV  1 channel, then for each   1 id   2 entry   3 when it expires in us
-- Returns how many were not there.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local version = math.max(tonumber(redis.call('GET', KEYS[3]) or '0') + 1, now)
local restored = 0
for i = 2, #ARGV, 3 do
  if redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1]) == 1 then
    redis.call('ZADD', KEYS[2], ARGV[i + 2], ARGV[i])
    version = math.max(version, tonumber(string.match(ARGV[i + 1], '^%d+:%d+:(%d+):')) + 1)
    restored = restored + 1
  end
end
if restored > 0 then
  version = string.format('%.0f', version)
  redis.call('SET', KEYS[3], version)
  redis.call('PUBLISH', ARGV[1], version)
end
return restored
