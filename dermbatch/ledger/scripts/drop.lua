#!lua flags=allow-oom
-- KEYS: inflight, states, jobs, counts    ARGV: batch
-- Takes a batch's images out of flight that no worker has. How many. Their messages find nothing to claim.
local dropped = 0
local entries = redis.call('HGETALL', KEYS[2])
for i = 1, #entries, 2 do
  local member, entry = entries[i], entries[i + 1]
  local state = string.match(entry, '^(%a+)|')
  if (state == 'queued' or state == 'waiting') and string.match(member, '^(.*):%d+$') == ARGV[1] then
    redis.call('ZREM', KEYS[1], member)
    redis.call('HDEL', KEYS[2], member)
    redis.call('HDEL', KEYS[3], member)
    dropped = dropped + 1
  end
end
if dropped > 0 and redis.call('HINCRBY', KEYS[4], ARGV[1], -dropped) <= 0 then redis.call('HDEL', KEYS[4], ARGV[1]) end
redis.call('HDEL', KEYS[4], ARGV[1] .. '|waiting')
return dropped
