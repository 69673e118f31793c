#!lua flags=allow-oom
-- KEYS: inflight, states, done, failed    ARGV: member, index, owner, lease milliseconds
-- Gives the image to one owner. {status, attempt, transient failures so far, milliseconds since it was first put into
-- the queue, queue}: claimed, taken, finished or unknown.
if redis.call('GETBIT', KEYS[3], ARGV[2]) == 1 or redis.call('GETBIT', KEYS[4], ARGV[2]) == 1 then
  return {'finished', 0, 0, 0, ''}
end
local entry = redis.call('HGET', KEYS[2], ARGV[1])
if not entry then return {'unknown', 0, 0, 0, ''} end
local state, attempt, crashes, transients, rest = string.match(entry, '^(%a+)|[^|]*|(%d+)|(%d+)|(%d+)|(.*)$')
-- Only a queued image is free: one that waits out a pause, or whose lease is about to be looked at, is not.
if state ~= 'queued' then return {'taken', tonumber(attempt), 0, 0, ''} end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZADD', KEYS[1], now + ARGV[4], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1],
  'running|' .. ARGV[3] .. '|' .. (attempt + 1) .. '|' .. crashes .. '|' .. transients .. '|' .. rest)
local since, queue = string.match(rest, '^(%d+)|(.*)$')
return {'claimed', attempt + 1, tonumber(transients), math.max(0, now - since), queue}
