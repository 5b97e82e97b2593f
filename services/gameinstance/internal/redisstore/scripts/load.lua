-- Reads an instance, or what is wanted of it, in one moment.
--
-- KEYS 1 instance (hash)   2 digests of backends' commands (hash)   3 window of requests over the link (zset by number)   4 mailbox (zset)
--      5 deleted instances (zset)
-- ARGV 1 instance id   2 "*" for all fields, or ""   3 number of fields F, then F fields that are wanted besides those that always come
--      then number of command names N, then N names; then session of the link's commands ("" none) and their numbers
-- Returns {seconds, microseconds, entries in the mailbox, 1 if the instance was deleted,
--      {field, value, …}, {what is kept of each name, or ""}, {what is kept of each number, "" or, below the window, "old"},
--      session of the window, or "", highest number in it}.
local now = redis.call('TIME')

local fields, pairs_of, link = tonumber(ARGV[3]), {}, {}
if ARGV[2] == '*' then
  pairs_of = redis.call('HGETALL', KEYS[1])
  link = redis.call('HMGET', KEYS[1], 'ls', 'lf')
else
  local wanted = {'ls', 'lf', 'rev', 'off', 'mail', 'said', 'head'}
  for i = 4, 3 + fields do wanted[#wanted + 1] = ARGV[i] end
  link = redis.call('HMGET', KEYS[1], unpack(wanted))
  for i = 3, #wanted do
    if link[i] then
      pairs_of[#pairs_of + 1] = wanted[i]
      pairs_of[#pairs_of + 1] = link[i]
    end
  end
end

local at = 4 + fields
local names, kept = tonumber(ARGV[at]), {}
for i = at + 1, at + names do kept[#kept + 1] = redis.call('HGET', KEYS[2], ARGV[i]) or '' end

at = at + names + 1
local session, window = ARGV[at], {}
local owner = link[1] or ''
if session ~= '' and owner == session then
  local floor = tonumber(link[2] or '0')
  for i = at + 1, #ARGV do
    if tonumber(ARGV[i]) <= floor then
      window[#window + 1] = 'old'
    else
      window[#window + 1] = redis.call('ZRANGEBYSCORE', KEYS[3], ARGV[i], ARGV[i])[1] or ''
    end
  end
end
local gone = #pairs_of == 0 and redis.call('ZSCORE', KEYS[5], ARGV[1]) and 1 or 0
return {now[1], now[2], redis.call('ZCARD', KEYS[4]), gone, pairs_of, kept, window,
  owner, redis.call('ZREVRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2] or '0'}
