-- Reads the topology, all of one moment.
--
-- KEYS   topology, epoch, backends, rotation
-- Reply  { version ('0' if there is none), epoch ('' if there is none), counter, { id, JSON, id, JSON, ... } }

return {
  redis.call('GET', KEYS[1]) or '0', redis.call('GET', KEYS[2]) or '', redis.call('GET', KEYS[4]) or '0',
  redis.call('HGETALL', KEYS[3]),
}
