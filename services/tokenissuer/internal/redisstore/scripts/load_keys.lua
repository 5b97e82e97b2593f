-- Reads API keys.
-- KEYS  1 keys (hash: SHA-256 of the key to "CREATED:EXPIRES:" and JSON, times in us, 0 for never)
-- ARGV  1 SHA-256 of the one that is wanted; empty for all
-- Returns {now in us, {SHA-256, entry, SHA-256, entry, ...}}. Some may have expired.
local t = redis.call('TIME')
local found = {}
if ARGV[1] == '' then
  found = redis.call('HGETALL', KEYS[1])
else
  local entry = redis.call('HGET', KEYS[1], ARGV[1])
  if entry then found = {ARGV[1], entry} end
end
return {string.format('%.0f', t[1] * 1000000 + t[2]), found}
