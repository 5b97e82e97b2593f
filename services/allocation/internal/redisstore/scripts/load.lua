-- Reads an allocation, with the time of the server that has it: on a Cluster another one's clock may differ.
-- KEYS  1 record (as in commit.lua)
-- Returns {now in µs, revision, head}; the last two are nil when it is not there.
local t = redis.call('TIME')
local record = redis.call('HMGET', KEYS[1], 'rev', 'head')
return {string.format('%.0f', t[1] * 1000000 + t[2]), record[1], record[2]}
