#!lua flags=allow-oom
-- Has a batch that is known fed again from an index, unless it stands before it.
local batch = KEYS[1]
local index = ARGV[1]

local next_index = redis.call('HGET', batch, 'next')
if next_index and tonumber(index) < tonumber(next_index) then redis.call('HSET', batch, 'next', index) end
