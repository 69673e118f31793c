#!lua flags=allow-oom
-- Gives the image to one owner. {taken}, {finished}, {unknown}, or {claimed, attempt, transient failures so far,
-- milliseconds since it was first put into the queue, queue}.
local inflight, states, done, failed = unpack(KEYS)
local member, index, owner, lease = unpack(ARGV)

if finished(done, failed, index) then return {'finished'} end
local state, _, attempts, crashes, transients, since, queue = parsed(redis.call('HGET', states, member))
if not state then return {'unknown'} end
-- Only a queued image is free: one that waits out a pause, or whose lease is about to be looked at, is not.
if state ~= 'queued' then return {'taken'} end
local time = now()
redis.call('ZADD', inflight, time + lease, member)
attempts = attempts + 1
redis.call('HSET', states, member, packed('running', owner, attempts, crashes, transients, since, queue))
return {'claimed', attempts, tonumber(transients), math.max(0, time - since), queue}
