#!lua flags=allow-oom
-- KEYS: batch    ARGV: index
-- Has a batch that is known fed again from an index, unless it stands before it.
local now = redis.call('HGET', KEYS[1], 'next')
if now and tonumber(ARGV[1]) < tonumber(now) then redis.call('HSET', KEYS[1], 'next', ARGV[1]) end
return 1
