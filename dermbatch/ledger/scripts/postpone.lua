#!lua flags=allow-oom
-- KEYS: inflight, states, counts
-- ARGV: member, owner, pause milliseconds, 1 if it counts as a transient failure, batch
-- Holds the owner's image back for a while. The count of its transient failures, or -1 if it is not the owner's.
local entry = redis.call('HGET', KEYS[2], ARGV[1])
if not entry then return -1 end
local owner, attempt, crashes, transients, rest = string.match(entry, '^running|([^|]*)|(%d+)|(%d+)|(%d+)|(.*)$')
if owner ~= ARGV[2] then return -1 end
local t = redis.call('TIME')
redis.call('ZADD', KEYS[1], t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[3], ARGV[1])
transients = transients + ARGV[4]
redis.call('HSET', KEYS[2], ARGV[1],
  'waiting||' .. attempt .. '|' .. crashes .. '|' .. transients .. '|' .. rest)
redis.call('HINCRBY', KEYS[3], ARGV[5] .. '|waiting', 1)
return transients
