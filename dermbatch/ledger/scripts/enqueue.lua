#!lua
-- Puts images (ARGV from the fourth on: index and message of each) that are neither finished nor in flight into the
-- ledger and their messages into the queue. How many. `next_index`: to be fed next, or empty.
-- Refused by a full Redis as a whole, before anything is written.
local inflight, states, jobs, counts, done, failed, batch, queue = unpack(KEYS)
local look, name, next_index = unpack(ARGV)

local time = now()
local kept = packed('queued', '', 0, 0, 0, time, queue)
local added = 0
for i = 4, #ARGV, 2 do
  local index, message = ARGV[i], ARGV[i + 1]
  local member = name .. ':' .. index
  if not finished(done, failed, index) and not redis.call('ZSCORE', inflight, member) then
    redis.call('ZADD', inflight, time + look, member)
    redis.call('HSET', states, member, kept)
    redis.call('HSET', jobs, member, message)
    redis.call('LPUSH', queue, message)
    added = added + 1
  end
end
count(counts, name, added)
if next_index ~= '' and redis.call('EXISTS', batch) == 1 then redis.call('HSET', batch, 'next', next_index) end
return added
