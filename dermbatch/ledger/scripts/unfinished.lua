#!lua flags=no-writes
-- Those of so many indices from the first one on that have no outcome.
local done, failed = unpack(KEYS)
local first, number = unpack(ARGV)

local out = {}
for index = first, first + number - 1 do
  if not finished(done, failed, index) then out[#out + 1] = index end
end
return out
