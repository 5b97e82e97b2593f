-- Registers a game server, unless it is; one that joins a pool again is what it says now, and stays if it was to go.
--
-- KEYS 1 server (hash: epoch, record, server, ns, cap, used, made, join, drain, left, out, a:INSTANCE)   2 registered servers of the namespace (zset by time)
-- ARGV 1 server id   2 record   3 namespace   4 capacity   5 "join" for a server of a pool, "" for others
-- Returns {field, value, …}: the server as it is then.
local now = redis.call('TIME')
local us = string.format('%.0f', now[1] * 1000000 + now[2])
if redis.call('HEXISTS', KEYS[1], 'server') == 0 then
  redis.call('HSET', KEYS[1], 'server', ARGV[2], 'ns', ARGV[3], 'cap', ARGV[4], 'used', '0', 'made', us)
  redis.call('HDEL', KEYS[1], 'out')
  redis.call('PERSIST', KEYS[1])
  redis.call('ZADD', KEYS[2], us, ARGV[1])
end
if ARGV[5] == 'join' then
  redis.call('HSET', KEYS[1], 'server', ARGV[2], 'cap', ARGV[4], 'join', us)
  redis.call('HDEL', KEYS[1], 'left', 'drain')
end
return redis.call('HGETALL', KEYS[1])
