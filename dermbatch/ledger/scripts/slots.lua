#!lua flags=allow-oom
-- How many worker slots were heard of within so many milliseconds; this one is now, if one is named.
local slots = KEYS[1]
local silence, slot = unpack(ARGV)

local time = now()
if slot then redis.call('ZADD', slots, time, slot) end
redis.call('ZREMRANGEBYSCORE', slots, '-inf', time - silence)
redis.call('ZREMRANGEBYSCORE', slots, time + silence, '+inf')  -- from before the clock stepped back
return redis.call('ZCARD', slots)
