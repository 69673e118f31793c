#!lua flags=allow-oom
-- KEYS: inflight, states, jobs, clock, counts
-- ARGV: look-again ms, crashes allowed, limit, owner for poison, probation ms, longest time ahead ms
-- Takes images whose time has come and puts their messages into the queue again. A list of {why, attempts, message,
-- 1 if a lease ran out}: expired (its worker fell silent), resend (paused, or its message was lost), poison (expired
-- once too often; now ARGV[4]'s, not sent).
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('SET', KEYS[4], now)
-- After a step of the clock backwards, nothing would become due for as long as the step was.
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], now + ARGV[6], '+inf', 'LIMIT', 0, ARGV[3])) do
  redis.call('ZADD', KEYS[1], now + ARGV[5], member)
end
local out = {}
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', 0, ARGV[3])
for i = 1, #due, 2 do
  local member, score = due[i], tonumber(due[i + 1])
  local entry = redis.call('HGET', KEYS[2], member)
  local state, attempt, crashes, transients, since, queue =
    string.match(entry or '', '^(%a+)|[^|]*|(%d+)|(%d+)|(%d+)|(%d+)|(.*)$')
  local message = redis.call('HGET', KEYS[3], member)
  if not state or not message then
    redis.call('ZREM', KEYS[1], member)  -- nothing tells any more what it was
    redis.call('HINCRBY', KEYS[5], string.match(member, '^(.*):%d+$'), -1)
  elseif state == 'running' and score == math.floor(score) then
    -- Overdue for the first time: a step of the clock, or an outage of ours, looks the same for all images at once.
    -- A worker that lives has until the end of the probation to say so; the fraction marks that it is the last chance.
    redis.call('ZADD', KEYS[1], now + ARGV[5] + 0.5, member)
  elseif state == 'queued' and redis.call('LPOS', queue, message, 'RANK', -1) then
    redis.call('ZADD', KEYS[1], now + ARGV[1], member)  -- nobody has taken it yet
  else
    local why, next_state, owner, expired = 'resend', 'queued', '', 0
    if state == 'waiting' then
      redis.call('HINCRBY', KEYS[5], string.match(member, '^(.*):%d+$') .. '|waiting', -1)
    end
    if state == 'running' then
      crashes = crashes + 1
      why, expired = 'expired', 1
    end
    if state == 'poison' or tonumber(crashes) >= tonumber(ARGV[2]) then
      why, next_state, owner = 'poison', 'poison', ARGV[4]
    elseif state == 'queued' then
      redis.call('RPUSH', queue, message)  -- where workers take from: it has waited its turn
    else
      redis.call('LPUSH', queue, message)
    end
    redis.call('ZADD', KEYS[1], now + ARGV[1], member)
    redis.call('HSET', KEYS[2], member, next_state .. '|' .. owner .. '|' .. attempt .. '|' .. crashes .. '|'
      .. transients .. '|' .. since .. '|' .. queue)
    out[#out + 1] = {why, tonumber(attempt), message, expired}
  end
end
return out
