-- Lists a page of the items in doubt: those whose claims have all passed their deadline.
--
-- KEYS   sticky, claims, expiry
-- ARGV   cursor ('0' to begin with), about how many entries to look at, time to live of bindings in ms
-- Reply  { next cursor ('0' at the end), { item, owner ('' if unbound), version, item, owner, version, ... } }

local page = redis.call('HSCAN', KEYS[2], ARGV[1], 'COUNT', ARGV[2])
local cursor, fields = page[1], page[2]
local ms = now_ms()
local doubts = {}
for i = 1, #fields, 2 do
  local item, entry = fields[i], decode(fields[i + 1])
  if entry and is_over(entry, ms) then
    doubts[#doubts + 1] = item
    doubts[#doubts + 1] = redis.call('HGET', KEYS[1], item) or ''
    doubts[#doubts + 1] = entry.v
  end
end
return { cursor, doubts }
