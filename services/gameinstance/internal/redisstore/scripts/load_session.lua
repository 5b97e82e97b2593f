-- Reads a session, by the clock that its writers use.
--
-- KEYS 1 session (hash)
-- Returns {seconds, microseconds, record or "", "1" if its server has left its pool, or "", "1" if its server is registered or in a pool, or was
-- deregistered, or ""}.
local now = redis.call('TIME')
local kept = redis.call('HMGET', KEYS[1], 'record', 'left', 'server', 'out')
return {now[1], now[2], kept[1] or '', kept[2] or '', (kept[3] or kept[4]) and '1' or ''}
