#!lua flags=allow-oom
-- Holds the owner's image back for a while. `counted`: 1 if it counts as a transient failure, else 0.
-- The count of its transient failures, or -1 if it is not the owner's.
local inflight, states, counts = unpack(KEYS)
local member, owner, pause, counted, batch = unpack(ARGV)

local state, owner_now, attempts, crashes, transients, since, queue = parsed(redis.call('HGET', states, member))
if state ~= 'running' or owner_now ~= owner then return -1 end
redis.call('ZADD', inflight, now() + pause, member)
transients = transients + counted
redis.call('HSET', states, member, packed('waiting', '', attempts, crashes, transients, since, queue))
count(counts, batch .. '|waiting', 1)
return transients
