-- Claims an item for a create or a delete that is about to be sent.
--
-- KEYS   rotation, sticky, claims, topology, expiry
-- ARGV   item, claim id, kind 'c' or 'd', time to live in ms, version of the topology that the rest is of,
--        highest ticket that the replica has seen, hint: base URL to bind to if unbound, '' for one by ticket,
--        gone: base URL of an owner from which the item is taken away, '' for none,
--        usable (a '1' or '0' per backend), shift of the epoch, base URLs of the ring ...,
--        time to live of bindings in ms
-- Reply  { owner, '' if nothing was claimed; the ticket that a new binding took, 0 if none;
--          0; 1 if the item has as many claims as it may; 2 if the replica must read the topology again }

local item, id, kind, ttl_ms, version, highest = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])
local hint, gone, usable, shift = ARGV[7], ARGV[8], ARGV[9], tonumber(ARGV[10])
local URLS = 10
local before, entry = read_item(KEYS[2], KEYS[3], item)

if entry and entry.c[id] then
  return { entry.c[id][4], 0, 0 }
end

local owner, ticket = before, 0
if owner == gone and not entry then
  owner = ''
end
if owner == '' and kind == 'd' then
  return { '', 0, 0 }
end
if entry and is_full(entry) then
  return { '', 0, 1 }
end
if owner == '' then
  local counter = tonumber(redis.call('GET', KEYS[1]) or 0)
  if (redis.call('GET', KEYS[4]) or '0') ~= version or (highest > 0 and counter and counter < highest) then
    return { '', 0, 2 }
  end
  owner = hint
end
if owner == '' then
  if not string.find(usable, '1', 1, true) then
    return { '', 0, 0 }
  end
  -- A ticket that falls on an unusable backend is spent: exchanged, not shifted.
  -- Of as many tickets as there are places one is usable, unless the counter is beyond what Lua's numbers can tell.
  local place
  for _ = 1, #usable do
    ticket = redis.call('INCR', KEYS[1])
    place = (ticket + shift) % #usable + 1
    if string.sub(usable, place, place) == '1' then
      owner = ARGV[URLS + place]
      break
    end
  end
  if owner == '' then
    return { '', 0, 0 }
  end
end

local overlapped = kind == 'd' and entry and has_create(entry) and 1 or 0
entry = with_claim(entry, id, { kind, now_ms() + ttl_ms, overlapped, owner })
if ticket ~= 0 then
  entry.p = 1
end
write_item(KEYS[2], KEYS[3], item, before, owner, entry)
return { owner, ticket, 0 }
