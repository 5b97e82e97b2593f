-- Stores the key ring in place of the one with an expected revision.
-- KEYS  1 the ring (string: JSON with its revision in rev; none in the first format)
-- ARGV  1 expected revision, -1 for no ring   2 the new value
-- Returns 1 if it was stored, 0 if another one is there.
local raw = redis.call('GET', KEYS[1])
local rev = '-1'
if raw then
  local ok, ring = pcall(cjson.decode, raw)
  if not ok or type(ring) ~= 'table' then return 0 end
  rev = string.format('%.0f', tonumber(ring.rev) or 0)
end
if rev ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
