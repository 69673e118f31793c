#!lua flags=allow-oom
-- Extends the owner's lease. 1 if the image is still this owner's, else 0.
local inflight, states = unpack(KEYS)
local member, owner, lease = unpack(ARGV)

local state, owner_now = whose(redis.call('HGET', states, member))
if state ~= 'running' or owner_now ~= owner then return 0 end
redis.call('ZADD', inflight, now() + lease, member)
return 1
