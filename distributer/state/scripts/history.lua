-- The prelude of the scripts that read and change the topology: whether the server may have lost writes.
--
-- An epoch notes the server's identity. If the server has been promoted since, it may lack what the old master had
-- acknowledged; if it was restarted without an append-only file, it has what its last snapshot had. Either may be told of
-- late, by counters that others remember; it is better known at once, before a ticket is dealt.

local function info(section)
  local text = redis.pcall('INFO', section)
  return type(text) == 'string' and text or '' -- not everybody may ask
end

local function identity()
  return string.match(info('replication'), 'master_replid:(%x+)') or '', string.match(info('server'), 'run_id:(%x+)') or ''
end

-- `epoch` is the text of the key, '' if there is none.
local function has_lost_writes(epoch)
  local ok, was = pcall(cjson.decode, epoch)
  if not ok or type(was) ~= 'table' or type(was.replid) ~= 'string' or type(was.run) ~= 'string' then
    return false
  end
  local replid, run = identity()
  if replid ~= '' and was.replid ~= '' and replid ~= was.replid
    and string.match(info('replication'), 'master_replid2:%x*[1-9a-f]') then
    return true
  end
  return run ~= '' and was.run ~= '' and run ~= was.run and string.match(info('persistence'), 'aof_enabled:0') ~= nil
end
