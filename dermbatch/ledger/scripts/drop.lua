#!lua flags=allow-oom
-- Takes a batch's images out of flight that no worker has. How many. Their messages find nothing to claim.
local inflight, states, jobs, counts = unpack(KEYS)
local batch = ARGV[1]

local dropped = 0
local entries = redis.call('HGETALL', states)
for i = 1, #entries, 2 do
  local member, state = entries[i], whose(entries[i + 1])
  if (state == 'queued' or state == 'waiting') and batch_of(member) == batch then
    remove(inflight, states, jobs, member)
    dropped = dropped + 1
  end
end
count(counts, batch, -dropped)
redis.call('HDEL', counts, batch .. '|waiting')
return dropped
