#!lua flags=allow-oom
-- KEYS: leader    ARGV: name, milliseconds
-- Makes this orchestrator the leader for a while, if nobody else is. 1 if it leads, else 0.
local leader = redis.call('GET', KEYS[1])
-- One that seems to lead for longer than anybody may has been left behind by a clock that stepped backwards.
if leader and leader ~= ARGV[1] and redis.call('PTTL', KEYS[1]) <= tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
