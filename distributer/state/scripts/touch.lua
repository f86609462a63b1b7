-- Starts the time of bindings anew that have been used.
--
-- KEYS   sticky, claims, expiry
-- ARGV   items ..., time to live in ms
-- Reply  1

local is_native = expires_fields()
for i = 1, #ARGV - 1 do
  local item = ARGV[i]
  if redis.call('HEXISTS', KEYS[1], item) == 1 and redis.call('HEXISTS', KEYS[2], item) == 0 then
    start_expiry(KEYS[1], item, is_native)
  end
end
return 1
