#!lua
-- KEYS: open batches, batch, done, failed    ARGV: name, opened (milliseconds), images, lane, weight, state, why, tolerant,
--   whether it takes images in, by which rule
-- Makes a batch known, once. 1 if it was not known, else 0: then nothing changes.
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('HSET', KEYS[2], 'opened', ARGV[2], 'images', ARGV[3], 'lane', ARGV[4], 'weight', ARGV[5],
  'state', ARGV[6], 'why', ARGV[7], 'tolerant', ARGV[8], 'next', 0, 'rate', 0, 'growing', ARGV[9], 'rule', ARGV[10])
-- At full length from the start: a string that grows bit by bit is given up to a megabyte more than it needs.
for _, bitmap in ipairs({KEYS[3], KEYS[4]}) do
  redis.call('PERSIST', bitmap)
  if redis.call('EXISTS', bitmap) == 0 then redis.call('SETBIT', bitmap, math.max(0, ARGV[3] - 1), 0) end
end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
return 1
