#!lua
-- Makes a batch known, once (ARGV from the fourth on: further fields and their values). 1 if it was not known, else 0:
-- then nothing changes.
local open, batch, done, failed = unpack(KEYS)
local name, opened, images = unpack(ARGV)

if redis.call('EXISTS', batch) == 1 then return 0 end
redis.call('HSET', batch, 'opened', opened, 'images', images, 'next', 0, 'rate', 0, unpack(ARGV, 4))
-- At full length from the start: a string that grows bit by bit is given up to a megabyte more than it needs.
for _, bitmap in ipairs({done, failed}) do
  redis.call('PERSIST', bitmap)
  if redis.call('EXISTS', bitmap) == 0 then redis.call('SETBIT', bitmap, math.max(0, images - 1), 0) end
end
redis.call('ZADD', open, opened, name)
return 1
