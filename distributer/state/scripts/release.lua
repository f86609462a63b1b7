-- Takes items away from a backend that is to be removed: unbinds those that are still bound to it.
--
-- KEYS   sticky, claims, expiry
-- ARGV   base URL of the backend, items ...
-- Reply  how many are left, for there are claims on them

local left = 0
for i = 2, #ARGV do
  local item = ARGV[i]
  if redis.call('HGET', KEYS[1], item) == ARGV[1] then
    if redis.call('HEXISTS', KEYS[2], item) == 1 then
      left = left + 1
    else
      redis.call('HDEL', KEYS[1], item)
      redis.call('ZREM', KEYS[3], item)
    end
  end
end
return left
