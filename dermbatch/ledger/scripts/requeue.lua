#!lua flags=allow-oom
-- Takes images whose time has come and puts their messages into the queue again. A list of {member, why, attempts,
-- message, 1 if a lease ran out}: expired (its worker fell silent), resend (paused, or its message was lost), poison (expired
-- once too often; now `recorder`'s, not sent). `ahead`: the longest time, in milliseconds as all others, that is set.
local inflight, states, jobs, counts, clock = unpack(KEYS)
local look, crashes_allowed, limit, recorder, probation, ahead = unpack(ARGV)

local time = now()
redis.call('SET', clock, time)
-- After a step of the clock backwards, nothing would become due for as long as the step was.
for _, member in ipairs(redis.call('ZRANGEBYSCORE', inflight, time + ahead, '+inf', 'LIMIT', 0, limit)) do
  redis.call('ZADD', inflight, time + probation, member)
end
local out = {}
local due = redis.call('ZRANGEBYSCORE', inflight, '-inf', time, 'WITHSCORES', 'LIMIT', 0, limit)
for i = 1, #due, 2 do
  local member, score = due[i], tonumber(due[i + 1])
  local state, _, attempts, crashes, transients, since, queue = parsed(redis.call('HGET', states, member))
  local message = redis.call('HGET', jobs, member)
  if not state or not message then
    remove(inflight, states, jobs, member)  -- nothing tells any more what it was
    count(counts, batch_of(member), -1)
  elseif state == 'running' and score == math.floor(score) then
    -- Overdue for the first time: a step of the clock, or an outage of ours, looks the same for all images at once.
    -- A worker that lives has until the end of the probation to say so; the fraction marks that it is the last chance.
    redis.call('ZADD', inflight, time + probation + 0.5, member)
  elseif state == 'queued' and redis.call('LPOS', queue, message, 'RANK', -1) then
    redis.call('ZADD', inflight, time + look, member)  -- nobody has taken it yet
  else
    local why, next_state, owner, expired = 'resend', 'queued', '', 0
    if state == 'waiting' then count(counts, batch_of(member) .. '|waiting', -1) end
    if state == 'running' then
      crashes = crashes + 1
      why, expired = 'expired', 1
    end
    if state == 'poison' or tonumber(crashes) >= tonumber(crashes_allowed) then
      why, next_state, owner = 'poison', 'poison', recorder
    elseif state == 'queued' then
      redis.call('RPUSH', queue, message)  -- where workers take from: it has waited its turn
    else
      redis.call('LPUSH', queue, message)
    end
    redis.call('ZADD', inflight, time + look, member)
    redis.call('HSET', states, member, packed(next_state, owner, attempts, crashes, transients, since, queue))
    out[#out + 1] = {member, why, tonumber(attempts), message, expired}
  end
end
return out
