-- Ends a look: what it has noted takes the place of what the look before had.
-- KEYS  1 orphans of the provider   2 the same as this look notes it (both as in note.lua)
-- Returns 1, or 0 when there are none.
if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('RENAME', KEYS[2], KEYS[1])
  return 1
end
redis.call('DEL', KEYS[1])
return 0
