#!lua flags=allow-oom
-- Makes this orchestrator the leader for so many milliseconds, if nobody else is. 1 if it leads, else 0.
local leader = KEYS[1]
local name, lease = unpack(ARGV)

local leads = redis.call('GET', leader)
-- One that seems to lead for longer than anybody may has been left behind by a clock that stepped backwards.
if leads and leads ~= name and redis.call('PTTL', leader) <= tonumber(lease) then return 0 end
redis.call('SET', leader, name, 'PX', lease)
return 1
