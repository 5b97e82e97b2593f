-- Looks at the timers of one partition, keeps that it was looked at, and puts the partition on hold if nobody had for too long.
--
-- KEYS 1 timers (zset by due time)   2 swept (hash: at, hold)
-- ARGV 1 longest time between two looks in us   2 length of a hold in us   3 most instances to return
-- Returns {now, end of the hold or "0" if nothing is held, id, …}: ids that are due, the earliest first.
local now = redis.call('TIME')
local us = now[1] * 1000000 + now[2]
local int = function(n) return string.format('%.0f', n) end
local gap, length, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local kept = redis.call('HMGET', KEYS[2], 'at', 'hold')
local at, hold = kept[1] and tonumber(kept[1]), tonumber(kept[2] or '0')
if at and us - at > gap or not at and redis.call('EXISTS', KEYS[1]) == 1 then
  hold = us + length
  redis.call('HSET', KEYS[2], 'at', int(us), 'hold', int(hold))
elseif not at or us < at or us - at > gap / 4 then
  -- Not at each look: it is a write for every partition, four times a second.
  redis.call('HSET', KEYS[2], 'at', int(us))
end
-- A clock that was set back must not make a hold longer.
hold = math.min(hold, us + length)
if hold <= us then hold = 0 end

local reply = {int(us), int(hold)}
if limit > 0 then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', int(us), 'LIMIT', '0', int(limit))) do reply[#reply + 1] = id end
end
return reply
