-- Stores a change of one allocation, by compare on its revision, and says when a worker has to look at it.
-- KEYS  1 record (hash: rev, head)   2 due (zset: id by µs)   3 leases (hash: id to "until owner")   4 index of the namespace (zset, by lex)
-- ARGV  1 id   2 expected revision, 0 for a new one   3 owner of the lease; empty for a use-case   4 "keep" keeps the lease
--       5 due, µs (owners only)   6 head; empty: unchanged   7 "delete" deletes   8 member of the index
-- Returns {"OK", revision}, {"CONFLICT"} when the revision differs, or {"LOST"} when the lease is not the owner's.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local rev = redis.call('HGET', KEYS[1], 'rev') or '0'
local lease = redis.call('HGET', KEYS[3], ARGV[1])
local till, holder = 0, ''
if lease then
  till, holder = string.match(lease, '^(%d+) (.*)$')
end
if ARGV[3] ~= '' and holder ~= ARGV[3] then return {'LOST'} end
if rev ~= ARGV[2] then return {'CONFLICT'} end

if ARGV[7] == 'delete' then
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('HDEL', KEYS[3], ARGV[1])
  redis.call('ZREM', KEYS[4], ARGV[8])
  return {'OK', '0'}
end
if ARGV[6] ~= '' then
  rev = string.format('%.0f', math.max(tonumber(rev) + 1, now))
  redis.call('HSET', KEYS[1], 'rev', rev, 'head', ARGV[6])
  redis.call('ZADD', KEYS[4], 0, ARGV[8])
end
if ARGV[3] == '' then
  -- While a worker has it, the worker finds the new revision when it commits.
  if tonumber(till) <= now then redis.call('ZADD', KEYS[2], string.format('%.0f', now), ARGV[1]) end
elseif ARGV[4] ~= 'keep' then
  redis.call('HDEL', KEYS[3], ARGV[1])
  redis.call('ZADD', KEYS[2], ARGV[5], ARGV[1])
end
return {'OK', rev}
