-- KEYS: inflight, states, jobs    ARGV: look-again milliseconds, crashes allowed, limit, owner for poison
-- Takes images whose time has come. A list of {member, why, attempts, job, 1 if a lease ran out}: expired (its
-- worker fell silent), resend (paused, or its message was lost), poison (expired once too often; now ARGV[4]'s).
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local out = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[3])) do
  local entry = redis.call('HGET', KEYS[2], member)
  local state, attempt, crashes, transients = string.match(entry or '', '^(%a+)|.*|(%d+)|(%d+)|(%d+)$')
  if not state then
    redis.call('ZREM', KEYS[1], member)
  else
    local why, next_state, owner, expired = 'resend', 'queued', '', 0
    if state == 'running' then
      crashes = crashes + 1
      why, expired = 'expired', 1
    end
    if state == 'poison' or tonumber(crashes) >= tonumber(ARGV[2]) then
      why, next_state, owner = 'poison', 'poison', ARGV[4]
    end
    redis.call('ZADD', KEYS[1], now + ARGV[1], member)
    redis.call('HSET', KEYS[2], member,
      next_state .. '|' .. owner .. '|' .. attempt .. '|' .. crashes .. '|' .. transients)
    out[#out + 1] = {member, why, tonumber(attempt), redis.call('HGET', KEYS[3], member), expired}
  end
end
return out
