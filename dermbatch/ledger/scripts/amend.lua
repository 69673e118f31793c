#!lua flags=allow-oom
-- KEYS: batch    ARGV: field and value, as often as needed
-- Changes fields of a batch that is known; never makes one known. 1 if it was, else 0.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1
