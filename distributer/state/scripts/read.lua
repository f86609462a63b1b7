-- Reads the topology, all of one moment.
--
-- KEYS   topology, epoch, backends, rotation
-- Reply  { version ('0' if there is none), epoch ('' if there is none), counter, { id, JSON, id, JSON, ... },
--          1 if the server may have lost writes since the epoch began }

local epoch = redis.call('GET', KEYS[2]) or ''
return {
  redis.call('GET', KEYS[1]) or '0', epoch, redis.call('GET', KEYS[4]) or '0', redis.call('HGETALL', KEYS[3]),
  has_lost_writes(epoch) and 1 or 0,
}
