-- Takes or renews the lease of the one replica that probes the backends and sweeps doubts, or gives it back.
--
-- KEYS   prober
-- ARGV   replica id, milliseconds for which it is taken (0: it is given back)
-- Reply  { 1 if that replica holds it now, else 0, seconds, microseconds of Redis' time }

local holder = redis.call('GET', KEYS[1])
local held = 0
if ARGV[2] == '0' then
  if holder == ARGV[1] then
    redis.call('DEL', KEYS[1])
  end
elseif not holder or holder == ARGV[1] or redis.call('PTTL', KEYS[1]) == -1 then -- an edit: it would never end
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  held = 1
end
local time = redis.call('TIME')
return { held, time[1], time[2] }
