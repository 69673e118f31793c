-- KEYS: inflight, states, jobs, done, failed    ARGV: member, index, owner, outcome (done or failed)
-- Done: the result record exists, whoever wrote it, so anybody may say so. Failed: only the owner may, and only
-- while there is no result. 1 if the outcome was taken, else 0.
if ARGV[4] == 'failed' then
  local entry = redis.call('HGET', KEYS[2], ARGV[1])
  local owner = entry and string.match(entry, '^%a+|(.*)|%d+|%d+|%d+$')
  if owner ~= ARGV[3] or redis.call('GETBIT', KEYS[4], ARGV[2]) == 1 then return 0 end
  redis.call('SETBIT', KEYS[5], ARGV[2], 1)
else
  redis.call('SETBIT', KEYS[4], ARGV[2], 1)
  redis.call('SETBIT', KEYS[5], ARGV[2], 0)
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
return 1
