#!lua flags=allow-oom
-- Tells how many images a known batch that takes images in has by now, never fewer than before, and whether it takes
-- more in (1 or 0). 1 if it is known, else 0.
local batch = KEYS[1]
local images, growing = unpack(ARGV)

local said = redis.call('HMGET', batch, 'images', 'growing')
if not said[1] then return 0 end
if said[2] ~= '1' then return 1 end
redis.call('HSET', batch, 'images', math.max(tonumber(said[1]), tonumber(images)), 'growing', growing)
return 1
