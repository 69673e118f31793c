#!lua flags=no-writes
-- How the batch of this name stands, or all that are not closed, oldest first.
local open, counts = unpack(KEYS)
local prefix, named = unpack(ARGV)

local out = {}
for i, name in ipairs(named and {named} or redis.call('ZRANGE', open, 0, -1)) do
  out[i] = standing(counts, prefix, name)
end
return out
