-- Ends a doubt by what the owner said: keeps the binding of an item that exists, releases that of one that does not.
--
-- KEYS   sticky, claims, expiry
-- ARGV   item, owner ('' if unbound) and version as the doubt was listed, exists '1' or '0',
--        time to live of bindings in ms
-- Reply  1; 0, and no effect, if anything has happened to the item since

local item, asked, version, exists = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local owner, entry = read_item(KEYS[1], KEYS[2], item)

if not entry or not is_over(entry, now_ms()) or entry.v ~= version or owner ~= asked then
  return 0
end
write_item(KEYS[1], KEYS[2], item, owner, exists == '1' and owner or '', nil)
return 1
