#!lua flags=allow-oom
-- Done: the result record exists, whoever wrote it, so anybody may say so. Failed: only the owner may, and only
-- while there is no result. 1 if the outcome was taken, else 0. Allowed in a full Redis, since it frees memory.
-- `row`: of the batch's table, kept until it is gathered, where there are fewer than `most`; or empty.
-- `kind`: of the image, of which `ms` milliseconds were spent on this one; or empty. The batch keeps both sums.
local inflight, states, jobs, counts, done, failed, reasons, batch, rows, wake = unpack(KEYS)
local member, index, owner, outcome, reason, name, row, most, kind, ms = unpack(ARGV)

local state, owner_now = whose(redis.call('HGET', states, member))
local again
if outcome == 'failed' then
  if owner_now ~= owner or redis.call('GETBIT', done, index) == 1 then return 0 end
  again = redis.call('SETBIT', failed, index, 1)
  if again == 0 then redis.call('HINCRBY', reasons, reason, 1) end
else
  again = redis.call('SETBIT', done, index, 1)
  redis.call('SETBIT', failed, index, 0)
  if again == 0 and row ~= '' and redis.call('LLEN', rows) < tonumber(most) then redis.call('RPUSH', rows, row) end
end
-- The batch is closed, or not known yet after a loss of data: nobody would ever tidy this up.
if redis.call('EXISTS', batch) == 0 then
  for _, key in ipairs({done, failed, reasons, rows}) do redis.call('EXPIRE', key, 86400) end
elseif again == 0 and kind ~= '' then
  redis.call('HINCRBY', batch, 'images:' .. kind, 1)
  redis.call('HINCRBY', batch, 'ms:' .. kind, ms)
end
if state == 'waiting' then count(counts, name .. '|waiting', -1) end
if remove(inflight, states, jobs, member) == 1 then
  count(counts, name, -1)
  -- The last of a batch that was fed to its end: the leader closes it now, not at its next look.
  if redis.call('HEXISTS', counts, name) == 0 then
    local images, next_index, growing = unpack(redis.call('HMGET', batch, 'images', 'next', 'growing'))
    if images and growing ~= '1' and tonumber(next_index) >= tonumber(images) then
      redis.call('LPUSH', wake, 1)
      redis.call('LTRIM', wake, 0, 0)
    end
  end
end
return 1
