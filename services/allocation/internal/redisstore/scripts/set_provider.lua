-- Sets what operators have set for one provider, by compare on what was there.
-- KEYS  1 settings (hash: provider to ProviderSettingRecord)
-- ARGV  1 provider   2 expected value; empty: none   3 value; empty: none any more
-- Returns 1, or 0 when something else was there.
local kept = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if kept ~= ARGV[2] then return 0 end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
return 1
