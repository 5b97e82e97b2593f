-- Reads a session, by the clock that its writers use.
--
-- KEYS 1 session (hash)
-- Returns {seconds, microseconds, record or ""}.
local now = redis.call('TIME')
return {now[1], now[2], redis.call('HGET', KEYS[1], 'record') or ''}
