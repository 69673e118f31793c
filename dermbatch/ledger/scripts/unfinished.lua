#!lua flags=no-writes
-- KEYS: done, failed    ARGV: first index, number of indices
-- Those of the indices that have no outcome.
local out = {}
for index = ARGV[1], ARGV[1] + ARGV[2] - 1 do
  if redis.call('GETBIT', KEYS[1], index) == 0 and redis.call('GETBIT', KEYS[2], index) == 0 then
    out[#out + 1] = index
  end
end
return out
