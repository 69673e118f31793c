-- What the scripts share. Each is given those of these functions that it calls, below its first line; none of them may
-- call another. Of the images in flight, only `parsed`, `whose` and `packed` know how they are kept.

-- Milliseconds by Redis's own clock.
local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Whether an image has its outcome.
local function finished(done, failed, index)
  return redis.call('GETBIT', done, index) == 1 or redis.call('GETBIT', failed, index) == 1
end

-- What is kept of an image in flight: its state (queued, running, waiting for the end of a pause, or poison), owner,
-- attempts, crashes, transient failures, the milliseconds at which it was first put into the queue, and that queue.
-- All are strings; nil where nothing is kept. The snapshot reads it too.
local function parsed(kept)
  return string.match(kept or '', '^(%a+)|([^|]*)|(%d+)|(%d+)|(%d+)|(%d+)|(.*)$')
end

-- Of these, state and owner.
local function whose(kept)
  return string.match(kept or '', '^(%a+)|([^|]*)|')
end

local function packed(state, owner, attempts, crashes, transients, since, queue)
  return state .. '|' .. owner .. '|' .. attempts .. '|' .. crashes .. '|' .. transients .. '|' .. since .. '|' .. queue
end

-- Takes an image out of flight. 1 if it was in flight, else 0.
local function remove(inflight, states, jobs, member)
  redis.call('HDEL', states, member)
  redis.call('HDEL', jobs, member)
  return redis.call('ZREM', inflight, member)
end

local function batch_of(member)
  return string.match(member, '^(.*):%d+$')
end

-- Counts images of a batch in flight, and as `<batch>|waiting` those of them that wait; a count of none is not kept.
local function count(counts, what, by)
  if redis.call('HINCRBY', counts, what, by) <= 0 then redis.call('HDEL', counts, what) end
end

-- How a batch stands: {name, fields, done, failed, {in flight, waiting}, failures by reason}.
local function standing(counts, prefix, name)
  local batch = prefix .. name
  return {name, redis.call('HGETALL', batch), redis.call('BITCOUNT', batch .. ':done'),
    redis.call('BITCOUNT', batch .. ':failed'), redis.call('HMGET', counts, name, name .. '|waiting'),
    redis.call('HGETALL', batch .. ':reasons')}
end
