#!lua flags=allow-oom
-- Changes fields of a batch (ARGV: field and value, as often as needed) that is known; never makes one known. 1 if it
-- was, else 0.
local batch = KEYS[1]

if redis.call('EXISTS', batch) == 0 then return 0 end
redis.call('HSET', batch, unpack(ARGV))
return 1
