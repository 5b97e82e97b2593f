-- Takes the lease on an allocation that is due and that nobody else holds, and pushes its due time to the end of the lease.
-- KEYS  1 record   2 due   3 leases (as in commit.lua)
-- ARGV  1 id   2 owner   3 length of the lease, µs   4 "force" takes one that is not due
-- Returns {now in µs, revision, head}, or nil.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local lease = redis.call('HGET', KEYS[3], ARGV[1])
local till, holder = 0, ''
if lease then
  till, holder = string.match(lease, '^(%d+) (.*)$')
end
if holder ~= ARGV[2] then
  if tonumber(till) > now then return nil end
  local score = redis.call('ZSCORE', KEYS[2], ARGV[1])
  if ARGV[4] ~= 'force' and (not score or tonumber(score) > now) then return nil end
end
local record = redis.call('HMGET', KEYS[1], 'rev', 'head')
if not record[1] then
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('HDEL', KEYS[3], ARGV[1])
  return nil
end
till = string.format('%.0f', now + tonumber(ARGV[3]))
redis.call('HSET', KEYS[3], ARGV[1], till .. ' ' .. ARGV[2])
redis.call('ZADD', KEYS[2], till, ARGV[1])
return {string.format('%.0f', now), record[1], record[2]}
