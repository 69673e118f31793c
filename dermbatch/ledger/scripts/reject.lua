#!lua flags=allow-oom
-- Counts a delivery of a message that is no job, which was just sent again. The deliveries so far. The last one that
-- is allowed makes it poison, `recorder`'s to be recorded, and takes the message out of the queue.
local inflight, states, jobs = unpack(KEYS)
local member, allowed, recorder = unpack(ARGV)

local state, _, attempts, crashes, transients, since, queue = parsed(redis.call('HGET', states, member))
if state ~= 'queued' and state ~= 'poison' then return 0 end
attempts = attempts + 1
local next_state, owner = 'queued', ''
if state == 'poison' or attempts >= tonumber(allowed) then
  next_state, owner = 'poison', recorder
  redis.call('LREM', queue, 0, redis.call('HGET', jobs, member) or '')
end
redis.call('HSET', states, member, packed(next_state, owner, attempts, crashes, transients, since, queue))
return attempts
