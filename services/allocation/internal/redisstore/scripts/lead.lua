-- Lets one process at a time do what only one should.
-- KEYS  1 leader (string: owner)
-- ARGV  1 owner   2 for how long, ms
-- Returns 1, or 0 while it is somebody else.
local leader = redis.call('GET', KEYS[1])
if leader and leader ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
