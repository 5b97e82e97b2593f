-- Says where an attempt has its room in a pool, if what was said before is still what was looked at.
--
-- KEYS 1 place (string)
-- ARGV 1 place that was looked at, or ""   2 new place, or "" for none   3 for how long it is remembered in seconds, 0: until it is taken away
-- Returns {1 or 0, the place as it is then, or ""}.
local was = redis.call('GET', KEYS[1]) or ''
if was ~= ARGV[1] then return {0, was} end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
elseif ARGV[3] == '0' then
  redis.call('SET', KEYS[1], ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
end
return {1, ARGV[2]}
