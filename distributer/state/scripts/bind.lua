-- Binds an item without a create: its backend has shown that it has it, or it is taken away from one that is gone.
--
-- KEYS   sticky, claims, expiry
-- ARGV   item, the binding that must stand for that ('' if the item must be unbound), base URL to bind to,
--        time to live of bindings in ms
-- Reply  the binding that stands now, which is another if something has happened to the item

local item, from, to = ARGV[1], ARGV[2], ARGV[3]
local owner, entry = read_item(KEYS[1], KEYS[2], item)

if owner ~= from or entry then
  return owner
end
write_item(KEYS[1], KEYS[2], item, owner, to, nil)
return to
