#!lua
-- KEYS: inflight, states, jobs, counts, done, failed, batch, queue
-- ARGV: look-again milliseconds, batch's name, next index to feed (or empty), then index and message of each image
-- Puts images that are neither finished nor in flight into the ledger and their messages into the queue. How many.
-- Refused by a full Redis as a whole, before anything is written.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local added = 0
for i = 4, #ARGV, 2 do
  local member = ARGV[2] .. ':' .. ARGV[i]
  if redis.call('GETBIT', KEYS[5], ARGV[i]) == 0 and redis.call('GETBIT', KEYS[6], ARGV[i]) == 0
    and not redis.call('ZSCORE', KEYS[1], member) then
    redis.call('ZADD', KEYS[1], now + ARGV[1], member)
    redis.call('HSET', KEYS[2], member, 'queued||0|0|0|' .. now .. '|' .. KEYS[8])
    redis.call('HSET', KEYS[3], member, ARGV[i + 1])
    redis.call('LPUSH', KEYS[8], ARGV[i + 1])
    added = added + 1
  end
end
if added > 0 then redis.call('HINCRBY', KEYS[4], ARGV[2], added) end
if ARGV[3] ~= '' and redis.call('EXISTS', KEYS[7]) == 1 then redis.call('HSET', KEYS[7], 'next', ARGV[3]) end
return added
