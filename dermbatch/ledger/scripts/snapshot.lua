#!lua flags=no-writes
-- How all stands: {milliseconds by Redis's clock, batches, what is kept of the images in flight, lengths of the queues
-- (KEYS from the fifth on), worker slots heard of within so many milliseconds, bytes that Redis uses, and may use at
-- most or 0}. The images go as they are: to count them here would hold up Redis five times as long.
local open, counts, states, slots = unpack(KEYS)
local prefix, silence = unpack(ARGV)

local time, memory = now(), redis.call('INFO', 'memory')
local batches, lengths = {}, {}
for i, name in ipairs(redis.call('ZRANGE', open, 0, -1)) do batches[i] = standing(counts, prefix, name) end
for i = 5, #KEYS do lengths[i - 4] = redis.call('LLEN', KEYS[i]) end
return {time, batches, redis.call('HVALS', states), lengths,
  redis.call('ZCOUNT', slots, '(' .. time - silence, '(' .. time + silence),
  tonumber(string.match(memory, 'used_memory:(%d+)')), tonumber(string.match(memory, '[\r\n]maxmemory:(%d+)'))}
