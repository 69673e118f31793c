#!lua flags=allow-oom
-- Takes a queued image out of flight, and its message out of the queue: it is to be fed again. 1 if it was queued.
local inflight, states, jobs, counts = unpack(KEYS)
local member = ARGV[1]

local state, _, _, _, _, _, queue = parsed(redis.call('HGET', states, member))
if state ~= 'queued' then return 0 end
redis.call('LREM', queue, 0, redis.call('HGET', jobs, member) or '')
if remove(inflight, states, jobs, member) == 1 then count(counts, batch_of(member), -1) end
return 1
