#!lua flags=allow-oom
-- KEYS: inflight, states    ARGV: member
-- Makes an image due whose message was taken by somebody who will not run it. 1 if it was queued, else 0.
local entry = redis.call('HGET', KEYS[2], ARGV[1])
if not entry or string.sub(entry, 1, 7) ~= 'queued|' then return 0 end
redis.call('ZADD', KEYS[1], 0, ARGV[1])
return 1
