-- The prelude of the scripts about items (`__init__.py` puts it in front): one item's state, read and written.
-- The theory is in routing/claim.py, and so are the names; tests hold the two together.
--
-- owner   the item's binding, a base URL; '' when it is unbound
-- entry   { v = version, p = 0 or 1 (pending), c = { [claim id] = held } }; nil when there is none
-- held    { kind 'c' or 'd', deadline in ms by TIME, overlapped 0 or 1, owner }
--
-- Whatever else a script takes, the last of KEYS is `expiry`, and the last of ARGV how long a binding is kept that
-- nobody uses, in ms; 0: for ever. A binding with claims on it never expires.

local MAX_CLAIMS = 256
local IS_OVER = 0
local EXPIRY, TTL_MS = KEYS[#KEYS], tonumber(ARGV[#ARGV])

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function now_ms()
  return math.floor(now_us() / 1000)
end

local function is_integer(value)
  return type(value) == 'number' and value >= 0 and value < 2 ^ 53 and value == math.floor(value)
end

local function is_bit(value)
  return value == 0 or value == 1
end

local function is_held(held)
  return type(held) == 'table' and #held == 4 and (held[1] == 'c' or held[1] == 'd') and is_integer(held[2])
    and is_bit(held[3]) and type(held[4]) == 'string'
end

-- Reads a text of the claims hash. What no script here can have written, an edit, is no entry.
local function decode(text)
  local ok, entry = pcall(cjson.decode, text)
  if not ok or type(entry) ~= 'table' or not is_integer(entry.v) or not is_bit(entry.p) or type(entry.c) ~= 'table'
    or next(entry.c) == nil then
    return nil
  end
  for id, held in pairs(entry.c) do
    if type(id) ~= 'string' or not is_held(held) then
      return nil
    end
  end
  return entry
end

-- cjson escapes every slash, which makes URLs hard to read in redis-cli. Escapes are taken in pairs: in "\\/" the
-- slash is not escaped.
local function quote(text)
  return (string.gsub(cjson.encode(text), '\\(.)', { ['/'] = '/' }))
end

-- By hand, since cjson keeps 14 digits of a number and takes an empty table for an array.
local function encode(entry)
  local claims = {}
  for id, held in pairs(entry.c) do
    claims[#claims + 1] = string.format('%s:["%s",%.0f,%d,%s]', quote(id), held[1], held[2], held[3], quote(held[4]))
  end
  return string.format('{"v":%.0f,"p":%d,"c":{%s}}', entry.v, entry.p, table.concat(claims, ','))
end

local function read_item(sticky, claims, item)
  local owner = redis.call('HGET', sticky, item) or ''
  local text = redis.call('HGET', claims, item)
  return owner, text and decode(text) or nil
end

-- Whether the server lets fields of a hash expire: Redis from 7.4 on, Valkey from 9. Where it does not, `expiry` is a
-- sorted set, item by time in ms, and `expire.lua` releases what is due. Asked each time, since what is connected may
-- become another server; it costs some 2 us, and nothing without a TTL_MS.
local function expires_fields()
  local info = redis.pcall('COMMAND', 'INFO', 'HPEXPIRE')
  return not info.err and type(info[1]) == 'table'
end

-- Lets a binding expire TTL_MS from now.
local function start_expiry(sticky, item, is_native)
  if is_native then
    redis.call('HPEXPIRE', sticky, TTL_MS, 'FIELDS', 1, item)
  else
    redis.call('ZADD', EXPIRY, now_ms() + TTL_MS, item)
  end
end

local function stop_expiry(sticky, item, is_native)
  if is_native then
    redis.call('HPERSIST', sticky, 'FIELDS', 1, item)
  else
    redis.call('ZREM', EXPIRY, item)
  end
end

-- `before` is the owner as it was read. An entry without claims is dropped.
local function write_item(sticky, claims, item, before, owner, entry)
  if owner == '' then
    redis.call('HDEL', sticky, item)
  elseif owner ~= before then
    redis.call('HSET', sticky, item, owner)
  end
  local is_claimed = entry ~= nil and next(entry.c) ~= nil
  if is_claimed then
    redis.call('HSET', claims, item, encode(entry))
  else
    redis.call('HDEL', claims, item)
  end
  if TTL_MS > 0 and owner ~= '' then
    local set = is_claimed and stop_expiry or start_expiry
    set(sticky, item, expires_fields())
  end
end

local function has_create(entry)
  for _, held in pairs(entry.c) do
    if held[1] == 'c' then
      return true
    end
  end
  return false
end

local function is_full(entry)
  local count = 0
  for _ in pairs(entry.c) do
    count = count + 1
  end
  return count >= MAX_CLAIMS
end

local function is_over(entry, ms)
  for _, held in pairs(entry.c) do
    if held[2] > ms then
      return false
    end
  end
  return true
end

-- Adds a claim to the entry, or to a new one; a create overlaps every delete that is there.
local function with_claim(entry, id, held)
  entry = entry or { v = now_us(), p = 0, c = {} }
  if held[1] == 'c' then
    for _, other in pairs(entry.c) do
      if other[1] == 'd' then
        other[3] = 1
      end
    end
  end
  entry.v = entry.v + 1
  entry.c[id] = held
  return entry
end
