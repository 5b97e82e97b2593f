-- Takes the room of an attempt on a registered server back, and lets one that is to go, and has no instances, be forgotten.
--
-- KEYS 1 server (hash)   2 registered servers of the namespace (zset by time)   3 servers with instances (set)
-- ARGV 1 server id   2 instance id, or "" to deregister the server   3 attempt id   4 for how long its session is remembered, in seconds
-- Returns {field, value, …}: the server as it was before it was forgotten.
if redis.call('HEXISTS', KEYS[1], 'server') == 0 then return {} end
if ARGV[2] == '' then
  redis.call('HSET', KEYS[1], 'drain', '1')
elseif string.match(redis.call('HGET', KEYS[1], 'a:' .. ARGV[2]) or '', '^%d+:(.*)$') == ARGV[3] then
  redis.call('HDEL', KEYS[1], 'a:' .. ARGV[2])
  redis.call('HINCRBY', KEYS[1], 'used', -1)
end
local reply = redis.call('HGETALL', KEYS[1])
if redis.call('HGET', KEYS[1], 'used') ~= '0' then return reply end
redis.call('SREM', KEYS[3], ARGV[1])
if redis.call('HEXISTS', KEYS[1], 'drain') == 1 then
  redis.call('HDEL', KEYS[1], 'server', 'ns', 'cap', 'used', 'made', 'join', 'drain')
  redis.call('HSET', KEYS[1], 'out', '1')
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('EXPIRE', KEYS[1], ARGV[4])
end
return reply
