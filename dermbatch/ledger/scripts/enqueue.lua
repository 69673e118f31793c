-- KEYS: inflight, states, jobs, done, failed    ARGV: member, index, job, look-again milliseconds
-- Adds an image that is neither finished nor in flight. 1 if added, else 0.
if redis.call('GETBIT', KEYS[4], ARGV[2]) == 1 or redis.call('GETBIT', KEYS[5], ARGV[2]) == 1 then return 0 end
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZADD', KEYS[1], now + ARGV[4], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], 'queued||0|0|0')
redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
return 1
