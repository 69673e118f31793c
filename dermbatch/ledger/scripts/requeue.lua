-- KEYS: inflight, states, jobs    ARGV: look-again milliseconds, crashes allowed, limit, owner for poison
-- Takes images whose time has come. A list of {member, why, attempts, job}: expired (its worker fell silent),
-- resend (paused, or its message was lost), poison (expired once too often; now owned by ARGV[4]).
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local out = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[3])) do
  local entry = redis.call('HGET', KEYS[2], member)
  local state, attempt, crashes, transients = string.match(entry or '', '^(%a+)|.*|(%d+)|(%d+)|(%d+)$')
  if not state then
    redis.call('ZREM', KEYS[1], member)
  else
    local why, next_state, owner = 'resend', 'queued', ''
    if state == 'running' then
      crashes = crashes + 1
      why = 'expired'
    end
    if state == 'poison' or tonumber(crashes) >= tonumber(ARGV[2]) then
      why, next_state, owner = 'poison', 'poison', ARGV[4]
    end
    redis.call('ZADD', KEYS[1], now + ARGV[1], member)
    redis.call('HSET', KEYS[2], member,
      next_state .. '|' .. owner .. '|' .. attempt .. '|' .. crashes .. '|' .. transients)
    out[#out + 1] = {member, why, tonumber(attempt), redis.call('HGET', KEYS[3], member)}
  end
end
return out
