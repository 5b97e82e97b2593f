-- Stores a server's session if it is still the one that was looked at.
--
-- KEYS 1 session (hash: epoch, record)
-- ARGV 1 epoch that was looked at, 0: none   2 new epoch   3 record   4 lifetime in seconds, for a server that is not registered
-- Returns 1 if stored, 0 if another one was stored first.
local epoch = redis.call('HGET', KEYS[1], 'epoch') or '0'
if epoch ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'record', ARGV[3])
if redis.call('HEXISTS', KEYS[1], 'server') == 0 then redis.call('EXPIRE', KEYS[1], ARGV[4]) end
return 1
