-- Reads the revocations.
-- KEYS  1 entries (hash: id to "CREATED:EXPIRES:VERSION:" and JSON, times in us)   2 version (string)
-- Returns {now in us, version, {id, entry, id, entry, ...}}. Entries that have expired may be among them.
local t = redis.call('TIME')
return {string.format('%.0f', t[1] * 1000000 + t[2]), redis.call('GET', KEYS[2]) or '0', redis.call('HGETALL', KEYS[1])}
