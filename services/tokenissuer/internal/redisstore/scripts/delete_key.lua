-- Deletes an API key.
-- KEYS  1 keys (hash: SHA-256 of the key to entry)   2 names (hash: name to SHA-256)   3 expiry (zset: name by us)
-- ARGV  1 SHA-256   2 name
-- Returns 1 if it was there, 0 if not. Another key that has the name by now stays.
if redis.call('HGET', KEYS[2], ARGV[2]) == ARGV[1] then
  redis.call('HDEL', KEYS[2], ARGV[2])
  redis.call('ZREM', KEYS[3], ARGV[2])
end
return redis.call('HDEL', KEYS[1], ARGV[1])
