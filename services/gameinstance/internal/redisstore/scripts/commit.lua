-- Commits one change of one instance: everything or nothing. All keys are of one partition.
--
-- KEYS 1 instance (hash: rev, off, mail, said, ls, lf, idx, head, data, result, p:PLAYER)   2 backends' commands (hash)   3 their ids by time (zset)
--      4 history (list)   5 mailbox (zset by offset)   6 timers (zset by due time)   7 undelivered mailboxes (zset by time)
--      8 namespace index (zset by create time)   9 links (hash: instance -> gateway)   10 window of requests over the link (zset by number)
--      11 lost links (zset by time)   12 changed instances (zset by revision)   13 deleted instances (zset by time)
--      14 messages to backends (zset by offset)   15 instances of the namespace with such (zset by their newest offset)
-- ARGV 1 instance id   2 revision that was decided upon, 0: none   3 "delete", "clear" (the mailbox of notifications, and give messages new offsets),
--      "drop" (notifications; messages and last words stay where they are) or ""   4 next due time in us, 0: none
--      5 create time in us   6 gateway of a connected link, or ""   7 time in us at which a live link was lost, 0: it is not
--      8 channel for the change hint   9 the revision, and 10 the offset, above which this one must be
--      11 session of the commands over the link, or ""   12 window of them
--      then lists, each behind its number of entries: fields to set (field, value), fields to drop (field), history (fold key or "", time,
--      entry), mailbox events (event), messages to backends (message), backends' commands (id, digest), commands over the link (number, digest)
-- Returns {"ok", revision, first event's offset, offset before it, first message's offset} or {"conflict"}, also where one of the commands was
-- committed meanwhile.
local now = redis.call('TIME')
local us = now[1] * 1000000 + now[2]
local int = function(n) return string.format('%.0f', n) end
local id = ARGV[1]

local kept = redis.call('HMGET', KEYS[1], 'rev', 'off', 'mail', 'ls', 'idx', 'said')
local known = tonumber(kept[1] or '0')
if known ~= tonumber(ARGV[2]) or known == 0 and redis.call('ZSCORE', KEYS[13], id) then return {'conflict'} end

if ARGV[3] == 'delete' then
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[10], KEYS[14])
  for _, k in ipairs({6, 7, 8, 11, 12, 15}) do redis.call('ZREM', KEYS[k], id) end
  redis.call('HDEL', KEYS[9], id)
  -- A tombstone for a day, so that the request that made the instance does not make another one.
  redis.call('ZADD', KEYS[13], int(us), id)
  redis.call('ZREMRANGEBYSCORE', KEYS[13], '-inf', int(us - 86400000000))
  redis.call('ZREMRANGEBYRANK', KEYS[13], 0, -10001)
  redis.call('PUBLISH', ARGV[8], id)
  return {'ok', int(known), '0', '0', '0'}
end

local rev = int(math.max(math.max(known, tonumber(ARGV[9])) + 1, us))

-- each calls f with the place of each entry of the next list, whose entries are width long.
local at = 13
local each = function(width, f)
  local n = tonumber(ARGV[at])
  for i = at + 1, at + n * width, width do f(i) end
  at = at + n * width + 1
end

-- The instance's fields are set together at the end: a call costs more than a field.
local fields = {'rev', rev}
local set = function(field, value)
  fields[#fields + 1] = field
  fields[#fields + 1] = value
end

each(2, function(i) set(ARGV[i], ARGV[i + 1]) end)
each(1, function(i) redis.call('HDEL', KEYS[1], ARGV[i]) end)

-- An entry stands behind REVISION:COUNT:FIRST:FOLD: and one with the fold key of the entry before it takes that one's place.
each(3, function(i)
  local entry = function(count, first) return rev .. ':' .. int(count) .. ':' .. first .. ':' .. ARGV[i] .. ':' .. ARGV[i + 2] end
  if ARGV[i] ~= '' then
    local before = redis.call('LINDEX', KEYS[4], -1) or ''
    local count, first, key = string.match(before, '^%d+:(%d+):(%d+):(%x*):')
    if key == ARGV[i] then
      redis.call('LSET', KEYS[4], -1, entry(count + 1, first))
      return
    end
  end
  if redis.call('RPUSH', KEYS[4], entry(1, ARGV[i + 1])) > 1000 then redis.call('LTRIM', KEYS[4], -1000, -1) end
end)

local size = tonumber(kept[3] or '0')
local before = math.max(tonumber(kept[2] or '0'), tonumber(ARGV[10]))
local previous, last, next_offset = before, before, math.max(before + 1, us)
local put = function(event)
  redis.call('ZADD', KEYS[5], int(next_offset), int(next_offset) .. ':' .. int(previous) .. ':' .. event)
  size = size + #event
  previous, last, next_offset = next_offset, next_offset, next_offset + 1
end

-- An event's first byte tells a message from a backend (58), and the last words to a server (42 and 50), from the notifications that a snapshot has.
-- What keeps its place names the kept one before it: who has seen one that was dropped finds no gap.
local mode = ARGV[3]
if mode ~= '' then
  local entries = redis.call('ZRANGE', KEYS[5], 0, -1)
  if mode == 'clear' then redis.call('DEL', KEYS[5]) end
  size = 0
  for n, entry in ipairs(entries) do
    local own, chained, tag = string.match(string.sub(entry, 1, 48), '^(%d+):(%d+):(.?)')
    local event = string.sub(entry, #own + #chained + 3)
    tag = string.byte(tag)
    if mode == 'drop' and n == 1 then previous = tonumber(chained) end
    if mode == 'clear' and tag == 58 then
      put(event)
    elseif mode == 'drop' and (tag == 58 or tag == 42 or tag == 50) then
      if tonumber(chained) ~= previous then
        redis.call('ZREM', KEYS[5], entry)
        redis.call('ZADD', KEYS[5], own, own .. ':' .. int(previous) .. ':' .. event)
      end
      size = size + #event
      previous = tonumber(own)
    elseif mode == 'drop' then
      redis.call('ZREM', KEYS[5], entry)
    end
  end
end

local first, chained = next_offset, previous
local events = tonumber(ARGV[at])
each(1, function(i) put(ARGV[i]) end)
set('off', int(last))
set('mail', int(size))

-- Messages to backends: said is the newest offset, and how many wait with how many bytes.
local first_said = 0
if ARGV[at] ~= '0' then
  local newest, count, bytes = string.match(kept[6] or '0:0:0', '^(%d+):(%d+):(%d+)$')
  newest, count, bytes = tonumber(newest), tonumber(count), tonumber(bytes)
  each(1, function(i)
    newest = math.max(newest + 1, us)
    if first_said == 0 then first_said = newest end
    redis.call('ZADD', KEYS[14], int(newest), int(newest) .. ':' .. ARGV[i])
    count, bytes = count + 1, bytes + #ARGV[i]
  end)
  set('said', int(newest) .. ':' .. int(count) .. ':' .. int(bytes))
  redis.call('ZADD', KEYS[15], int(newest), id)
else
  at = at + 1
end

-- What the partition's timers, links and lost links have of the instance is written where it changes. idx says what they have, for the revision
-- that it names: a writer that does not know of it leaves an older one there, which does not count.
local indexed = ' ' .. ARGV[4] .. ' ' .. ARGV[6] .. ' ' .. ARGV[7]
local moved = kept[5] ~= int(known) .. indexed
set('idx', rev .. indexed)
if moved then
  if ARGV[4] == '0' then redis.call('ZREM', KEYS[6], id) else redis.call('ZADD', KEYS[6], ARGV[4], id) end
  if ARGV[6] == '' then redis.call('HDEL', KEYS[9], id) else redis.call('HSET', KEYS[9], id, ARGV[6]) end
  if ARGV[7] == '0' then redis.call('ZREM', KEYS[11], id) else redis.call('ZADD', KEYS[11], ARGV[7], id) end
end
-- Only a connected server can be reminded; one that comes back is, from then on.
if moved or events > 0 or mode ~= '' then
  if ARGV[6] == '' or redis.call('EXISTS', KEYS[5]) == 0 then
    redis.call('ZREM', KEYS[7], id)
  else
    redis.call('ZADD', KEYS[7], 'NX', int(us), id)
  end
end
redis.call('ZADD', KEYS[12], rev, id)
if known == 0 then redis.call('ZADD', KEYS[8], ARGV[5], id) end

-- A backend's command is remembered for 10 minutes, and the newest 1024 of them.
local named = tonumber(ARGV[at]) > 0
each(2, function(i)
  redis.call('HSET', KEYS[2], ARGV[i], rev .. ':' .. ARGV[i + 1])
  redis.call('ZADD', KEYS[3], int(us), ARGV[i])
end)
if named then
  local old = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', int(us - 600000000))
  local extra = redis.call('ZCARD', KEYS[3]) - #old - 1024
  if extra > 0 then
    for _, name in ipairs(redis.call('ZRANGE', KEYS[3], #old, #old + extra - 1)) do old[#old + 1] = name end
  end
  for _, name in ipairs(old) do
    redis.call('HDEL', KEYS[2], name)
    redis.call('ZREM', KEYS[3], name)
  end
end

-- A request over the link is remembered as long as its server may repeat it, whatever the clock says: a window of the highest numbers, and a floor below
-- which everything was dealt with.
if ARGV[11] ~= '' then
  if kept[4] ~= ARGV[11] then
    redis.call('DEL', KEYS[10])
    set('ls', ARGV[11])
    set('lf', '0')
  end
  -- Room is made first: up to 128 entries Redis keeps them packed, and it does not pack them again.
  local extra = redis.call('ZCARD', KEYS[10]) + tonumber(ARGV[at]) - tonumber(ARGV[12])
  if extra > 0 then
    local dropped = redis.call('ZPOPMIN', KEYS[10], extra)
    if #dropped > 0 then set('lf', dropped[#dropped]) end
  end
  each(2, function(i) redis.call('ZADD', KEYS[10], ARGV[i], ARGV[i] .. ':' .. rev .. ':' .. ARGV[i + 1]) end)
end

-- Lua takes no more than some thousands of arguments at once.
for i = 1, #fields, 1000 do redis.call('HSET', KEYS[1], unpack(fields, i, math.min(i + 999, #fields))) end
redis.call('PUBLISH', ARGV[8], id)
return {'ok', rev, int(first), int(chained), int(first_said)}
