-- Releases the bindings that are due, where the server does not do that itself. And walks the map: to each binding of
-- one page it gives the expiry that it should have, for it may have come by an edit, or from before the settings, or
-- the server, changed.
--
-- KEYS   sticky, claims, expiry
-- ARGV   cursor of the walk ('0' to begin with), about how many bindings to look at, time to live in ms
-- Reply  { how many were due, next cursor ('0' at the end) }

local sticky, claims, count = KEYS[1], KEYS[2], ARGV[2]
local is_native = expires_fields()
local due = {}

if is_native or TTL_MS == 0 then
  redis.call('UNLINK', EXPIRY)
else
  due = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', now_ms(), 'LIMIT', 0, count)
  for _, item in ipairs(due) do
    redis.call('ZREM', EXPIRY, item)
    if redis.call('HEXISTS', claims, item) == 0 then
      redis.call('HDEL', sticky, item)
    end
  end
end

local function expires(item)
  if is_native then
    return redis.call('HPTTL', sticky, 'FIELDS', 1, item)[1] >= 0
  end
  return TTL_MS > 0 and redis.call('ZSCORE', EXPIRY, item)
end

local page = redis.call('HSCAN', sticky, ARGV[1], 'COUNT', count)
for i = 1, #page[2], 2 do
  local item = page[2][i]
  local should = TTL_MS > 0 and redis.call('HEXISTS', claims, item) == 0
  if should and not expires(item) then
    start_expiry(sticky, item, is_native)
  elseif not should and expires(item) then
    stop_expiry(sticky, item, is_native)
  end
end
return { #due, page[1] }
