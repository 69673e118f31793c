#!lua
-- Counts an image as failed that never was in flight, while there is no outcome of it. 1 if it was counted.
local done, failed, reasons, batch = unpack(KEYS)
local index, reason = unpack(ARGV)

if redis.call('GETBIT', done, index) == 1 or redis.call('SETBIT', failed, index, 1) == 1 then return 0 end
redis.call('HINCRBY', reasons, reason, 1)
if redis.call('EXISTS', batch) == 1 then redis.call('HINCRBY', batch, 'images:refused', 1) end
return 1
