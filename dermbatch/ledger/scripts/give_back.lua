#!lua flags=allow-oom
-- Makes an image due whose message was taken by somebody who will not run it. 1 if it was queued, else 0.
local inflight, states = unpack(KEYS)
local member = ARGV[1]

if whose(redis.call('HGET', states, member)) ~= 'queued' then return 0 end
redis.call('ZADD', inflight, 0, member)
return 1
