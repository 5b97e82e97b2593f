-- Frees a slot, or only one that was not taken anew.
-- KEYS  1 slots of the provider (as in take.lua)
-- ARGV  1 id   2 when it was taken last, µs; empty: whenever
-- Returns 1, or 0 when there is none to free.
if ARGV[2] ~= '' then
  local taken = redis.call('ZSCORE', KEYS[1], ARGV[1])
  if not taken or tonumber(taken) ~= tonumber(ARGV[2]) then return 0 end
end
return redis.call('ZREM', KEYS[1], ARGV[1])
