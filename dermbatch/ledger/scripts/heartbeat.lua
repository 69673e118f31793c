#!lua flags=allow-oom
-- KEYS: inflight, states    ARGV: member, owner, lease milliseconds
-- Extends the owner's lease. 1 if the image is still this owner's, else 0.
local entry = redis.call('HGET', KEYS[2], ARGV[1])
if not entry or string.match(entry, '^running|([^|]*)|') ~= ARGV[2] then return 0 end
local t = redis.call('TIME')
redis.call('ZADD', KEYS[1], t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[3], ARGV[1])
return 1
