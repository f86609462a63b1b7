-- Writes verdicts on the backends' health, for the holder of the lease and nobody else.
--
-- KEYS   prober, health, failures
-- ARGV   replica id, channel for events, number of verdicts, id and JSON of each ...,
--        number of backends that are gone, id of each ..., id of each whose count of failures begins anew ...
-- Reply  1; 0 and no effect if another holds the lease

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end

local at = 4
local function take()
  at = at + 1
  return ARGV[at - 1]
end
local function forget_failures(id)
  redis.call('HDEL', KEYS[3], id, id .. ' why', id .. ' refused')
end

local verdicts = tonumber(ARGV[3])
for _ = 1, verdicts do
  local id = take()
  redis.call('HSET', KEYS[2], id, take())
end
local gone = tonumber(take())
for _ = 1, gone do
  local id = take()
  redis.call('HDEL', KEYS[2], id)
  forget_failures(id)
end
while at <= #ARGV do
  forget_failures(take())
end
if verdicts + gone > 0 then
  redis.call('PUBLISH', ARGV[2], 'health')
end
return 1
