-- Gives the outcome of a claimed request. Idempotent, and never too late.
--
-- KEYS   sticky, claims, expiry
-- ARGV   item, claim id, kind 'c' or 'd', owner that the request went to ('' if that is not known),
--        outcome 'done', 'failed' or 'unknown' (which changes nothing), time to live of bindings in ms
-- Reply  1

local item, id, kind, sent_to, outcome = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local before, entry = read_item(KEYS[1], KEYS[2], item)
local owner = before
local held = entry and entry.c[id]
local standing = not held and 'gone' or held[3] == 1 and 'overlapped' or 'held'

local function remove()
  entry.v = entry.v + 1
  entry.c[id] = nil
end

local function unbind()
  -- Bound elsewhere by an edit: the edit stands.
  if owner == held[4] then
    owner = ''
  end
end

-- The table of routing/claim.py. What is not in it changes nothing.
local SETTLING = {
  ['c done held'] = function() -- confirm
    remove()
    entry.p = 0
    owner = owner ~= '' and owner or held[4]
  end,
  ['c done gone'] = function() -- write back
    -- Bound by another create that is in flight: should that fail, it must not unbind what this one has made.
    local is_at_risk = entry and entry.p == 1 and owner == sent_to
    if sent_to ~= '' and (owner == '' or is_at_risk) then
      owner = sent_to
      entry = with_claim(entry, id, { 'c', IS_OVER, 1, sent_to })
    end
  end,
  ['c failed held'] = function() -- withdraw
    remove()
    if entry.p == 1 and not has_create(entry) then
      entry.p = 0
      unbind()
    end
  end,
  ['d done held'] = function() -- release
    remove()
    unbind()
  end,
  ['d done overlapped'] = function() -- ask
    remove()
    -- One such delete has the sweeper ask as well as many, and an item that is fought over must not collect them.
    for _, other in pairs(entry.c) do
      if other[1] == 'd' and other[2] == IS_OVER and other[3] == 1 then
        return
      end
    end
    held[2] = IS_OVER
    entry.c[id] = held
  end,
  ['d failed held'] = remove, -- drop
  ['d failed overlapped'] = remove, -- drop
}

local rule = SETTLING[kind .. ' ' .. outcome .. ' ' .. standing]
if rule then
  rule()
  write_item(KEYS[1], KEYS[2], item, before, owner, entry)
end
return 1
