#!lua
-- KEYS: done, failed, reasons    ARGV: index, reason
-- Counts an image as failed that never was in flight, while there is no outcome of it. 1 if it was counted.
if redis.call('GETBIT', KEYS[1], ARGV[1]) == 1 or redis.call('SETBIT', KEYS[2], ARGV[1], 1) == 1 then return 0 end
redis.call('HINCRBY', KEYS[3], ARGV[2], 1)
return 1
