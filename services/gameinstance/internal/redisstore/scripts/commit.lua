-- Commits one change of one instance: everything or nothing. All keys are of one partition.
--
-- KEYS 1 instance (hash: rev, off, mail, head, data, result, p:PLAYER)   2 command digests (hash)   3 ids of backends' commands by time (zset)
--      4 history (list)   5 mailbox (zset by offset)   6 timers (zset by due time)   7 undelivered mailboxes (zset by time)
--      8 namespace index (zset by create time)   9 links (hash: instance -> gateway)   10 ids of commands over the link by time (zset)
--      11 ids of instances by revision of their last change (zset)   12 ids of deleted instances by time of deletion (zset)
-- ARGV 1 instance id   2 revision that was decided upon, 0: none   3 command id, "": none   4 command digest
--      5 next due time in us, 0: none   6 create time in us   7 gateway of a connected link, or ""
--      8 "delete", "clear" (the mailbox) or ""   9 channel for the change hint   10 most mailbox entries, 0: no limit   11 most mailbox bytes
--      12 number of fields to set F, then F pairs; number of fields to drop D, then D names;
--      number of history entries H, then H entries; number of mailbox events M, then M events
-- Returns {"ok", revision, first offset, offset before} or {"conflict"} or {"done", digest} or {"full"}.
local now = redis.call('TIME')
local us = now[1] * 1000000 + now[2]
local int = function(n) return string.format('%.0f', n) end

local done = ARGV[3] ~= '' and redis.call('HGET', KEYS[2], ARGV[3])
if done then return {'done', done} end
local rev = tonumber(redis.call('HGET', KEYS[1], 'rev') or '0')
if rev ~= tonumber(ARGV[2]) then return {'conflict'} end

if ARGV[8] == 'delete' then
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[10])
  redis.call('ZREM', KEYS[6], ARGV[1])
  redis.call('ZREM', KEYS[7], ARGV[1])
  redis.call('ZREM', KEYS[8], ARGV[1])
  redis.call('HDEL', KEYS[9], ARGV[1])
  -- A tombstone stays for 24 hours, and the newest 10,000 of a partition: watchers that missed the deletion find it there.
  redis.call('ZREM', KEYS[11], ARGV[1])
  redis.call('ZADD', KEYS[12], int(us), ARGV[1])
  redis.call('ZREMRANGEBYSCORE', KEYS[12], '-inf', int(us - 86400000000))
  redis.call('ZREMRANGEBYRANK', KEYS[12], 0, -10001)
  redis.call('PUBLISH', ARGV[9], ARGV[1])
  return {'ok', int(rev), '0', '0'}
end

-- Everything is checked before the first write. The events stand last, their number before them.
local waiting, size = 0, 0
if ARGV[8] ~= 'clear' then
  waiting, size = redis.call('ZCARD', KEYS[5]), tonumber(redis.call('HGET', KEYS[1], 'mail') or '0')
end
do
  local skip = 12 + 2 * tonumber(ARGV[12]) + 1
  skip = skip + tonumber(ARGV[skip]) + 1
  skip = skip + tonumber(ARGV[skip]) + 1
  local events = tonumber(ARGV[skip])
  for i = skip + 1, skip + events do size = size + #ARGV[i] end
  local limit = tonumber(ARGV[10])
  if limit > 0 and events > 0 and (waiting + events > limit or waiting > 0 and size > tonumber(ARGV[11])) then return {'full'} end
end

local at = 12
local take = function()
  local n = tonumber(ARGV[at])
  local first = at + 1
  at = first + n
  return first, at - 1
end

rev = math.max(rev + 1, us)
local pairs_n = tonumber(ARGV[at])
for i = at + 1, at + 2 * pairs_n, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
at = at + 2 * pairs_n + 1
local first, last = take()
for i = first, last do redis.call('HDEL', KEYS[1], ARGV[i]) end

-- A history entry and a mailbox entry carry numbers that are known only here; they stand before the encoded rest.
first, last = take()
for i = first, last do redis.call('RPUSH', KEYS[4], int(rev) .. ':' .. ARGV[i]) end
redis.call('LTRIM', KEYS[4], -1000, -1)

if ARGV[8] == 'clear' then redis.call('DEL', KEYS[5]) end
local before = tonumber(redis.call('HGET', KEYS[1], 'off') or '0')
local offset = math.max(before + 1, us)
local previous = before
first, last = take()
for i = first, last do
  local o = offset + (i - first)
  redis.call('ZADD', KEYS[5], int(o), int(o) .. ':' .. int(previous) .. ':' .. ARGV[i])
  previous = o
end
-- Only a connected server can be reminded; one that comes back is, from then on.
if ARGV[7] == '' or redis.call('EXISTS', KEYS[5]) == 0 then
  redis.call('ZREM', KEYS[7], ARGV[1])
else
  redis.call('ZADD', KEYS[7], 'NX', int(us), ARGV[1])
end

redis.call('HSET', KEYS[1], 'rev', int(rev), 'off', int(previous), 'mail', int(size))
redis.call('ZADD', KEYS[11], int(rev), ARGV[1])
if ARGV[5] == '0' then redis.call('ZREM', KEYS[6], ARGV[1]) else redis.call('ZADD', KEYS[6], ARGV[5], ARGV[1]) end
redis.call('ZADD', KEYS[8], 'NX', ARGV[6], ARGV[1])
if ARGV[7] == '' then redis.call('HDEL', KEYS[9], ARGV[1]) else redis.call('HSET', KEYS[9], ARGV[1], ARGV[7]) end

-- A backend's command is remembered for 10 minutes, and the newest 1024 of them; one over the link as long as it can come again: servers have
-- 64 requests under way at most, so the newest 256 are kept whatever the clock says.
if ARGV[3] ~= '' then
  local order, keep, old = KEYS[3], 1024, {}
  if string.sub(ARGV[3], 1, 5) == 'link/' then
    order, keep = KEYS[10], 256
  else
    old = redis.call('ZRANGEBYSCORE', order, '-inf', int(us - 600000000))
  end
  redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
  redis.call('ZADD', order, int(us), ARGV[3])
  local extra = redis.call('ZCARD', order) - #old - keep
  if extra > 0 then
    for _, id in ipairs(redis.call('ZRANGE', order, #old, #old + extra - 1)) do old[#old + 1] = id end
  end
  for _, id in ipairs(old) do
    redis.call('HDEL', KEYS[2], id)
    redis.call('ZREM', order, id)
  end
end

redis.call('PUBLISH', ARGV[9], ARGV[1])
return {'ok', int(rev), int(offset), int(before)}
