#!lua flags=allow-oom
-- KEYS: inflight, states, jobs, counts, done, failed, reasons, batch    ARGV: member, index, owner, outcome, reason, batch's name
-- Done: the result record exists, whoever wrote it, so anybody may say so. Failed: only the owner may, and only
-- while there is no result. 1 if the outcome was taken, else 0. Allowed in a full Redis, since it frees memory.
local entry = redis.call('HGET', KEYS[2], ARGV[1]) or ''
if ARGV[4] == 'failed' then
  if string.match(entry, '^%a+|([^|]*)|') ~= ARGV[3] or redis.call('GETBIT', KEYS[5], ARGV[2]) == 1 then return 0 end
  if redis.call('SETBIT', KEYS[6], ARGV[2], 1) == 0 then redis.call('HINCRBY', KEYS[7], ARGV[5], 1) end
else
  redis.call('SETBIT', KEYS[5], ARGV[2], 1)
  redis.call('SETBIT', KEYS[6], ARGV[2], 0)
end
-- The batch is closed, or not known yet after a loss of data: nobody would ever tidy this up.
if redis.call('EXISTS', KEYS[8]) == 0 then
  for i = 5, 7 do redis.call('EXPIRE', KEYS[i], 86400) end
end
if redis.call('ZREM', KEYS[1], ARGV[1]) == 1 and redis.call('HINCRBY', KEYS[4], ARGV[6], -1) <= 0 then
  redis.call('HDEL', KEYS[4], ARGV[6])
end
if string.sub(entry, 1, 8) == 'waiting|' and redis.call('HINCRBY', KEYS[4], ARGV[6] .. '|waiting', -1) <= 0 then
  redis.call('HDEL', KEYS[4], ARGV[6] .. '|waiting')
end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
return 1
