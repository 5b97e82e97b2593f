-- Gives an instance room on a registered server. One that has it keeps it, for its latest attempt: what comes late of an earlier one takes nothing.
--
-- KEYS 1 server (hash)   2 servers with instances (set)
-- ARGV 1 namespace   2 instance id   3 attempt id   4 server id
-- Returns {"ok", field, value, …}, the server as it is then, or {"unknown"} or {"full"} or {"later"}: a later attempt has the room.
-- An attempt's id ends in its number ("-2").
local now = redis.call('TIME')
local us = string.format('%.0f', now[1] * 1000000 + now[2])
local kept = redis.call('HMGET', KEYS[1], 'ns', 'cap', 'used', 'drain', 'a:' .. ARGV[2])
if kept[1] ~= ARGV[1] then return {'unknown'} end
if not kept[5] then
  if kept[4] or tonumber(kept[3]) >= tonumber(kept[2]) then return {'full'} end
  redis.call('HINCRBY', KEYS[1], 'used', 1)
  redis.call('SADD', KEYS[2], ARGV[4])
else
  local has, asks = tonumber(string.match(kept[5], '%-(%d+)$')), tonumber(string.match(ARGV[3], '%-(%d+)$'))
  if has and asks and asks < has then return {'later'} end
end
redis.call('HSET', KEYS[1], 'a:' .. ARGV[2], us .. ':' .. ARGV[3])
local reply = redis.call('HGETALL', KEYS[1])
table.insert(reply, 1, 'ok')
return reply
