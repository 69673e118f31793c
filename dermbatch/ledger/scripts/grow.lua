#!lua flags=allow-oom
-- KEYS: batch    ARGV: images, whether it takes more in (1 or 0)
-- Tells how many images a known batch that takes images in has by now, never fewer than before. 1 if known, else 0.
local said = redis.call('HMGET', KEYS[1], 'images', 'growing')
if not said[1] then return 0 end
if said[2] ~= '1' then return 1 end
redis.call('HSET', KEYS[1], 'images', math.max(tonumber(said[1]), tonumber(ARGV[1])), 'growing', ARGV[2])
return 1
