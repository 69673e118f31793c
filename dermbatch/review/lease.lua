-- Leases the first of some images that a reader is free for. KEYS: a hash an image, by reader: when their lease ends (ms),
-- or a word where they are done with it. ARGV: the reader, ms of a lease, ms that a hash is kept, 'held' where only an
-- image that the reader holds is meant, and of each image by how many it is to be read. Answers the place of the image in
-- KEYS, 0 where there is none.
local reader, lease, kept, which = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function free(place)
  local others, mine = 0, nil
  local found = redis.call('HGETALL', KEYS[place])
  for at = 1, #found, 2 do
    local ends = tonumber(found[at + 1])
    if found[at] == reader then
      if not ends then return false end
      mine = ends
    elseif found[at + 1] ~= 'opened' and (not ends or ends > now) then
      others = others + 1
    end
  end
  return others < tonumber(ARGV[4 + place]), mine ~= nil and mine > now
end

local first = 0
for place = 1, #KEYS do
  local may, holds = free(place)
  if may and holds then
    first = place
    break
  end
  if may and first == 0 and which ~= 'held' then first = place end
end
if first > 0 then
  redis.call('HSET', KEYS[first], reader, now + lease)
  redis.call('PEXPIRE', KEYS[first], kept)
end
return first
