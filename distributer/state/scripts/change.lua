-- Changes the topology, by compare-and-set, and begins a new epoch of the rotation at the counter's present value.
--
-- KEYS   topology, epoch, backends, rotation
-- ARGV   version that is to be changed ('0': there is none), highest ticket that was ever seen,
--        `first - after` of the present epoch, channel for events, highest version that was ever seen,
--        number N of starts, N starts: for each place on which the next ticket may fall, the place of the new ring to
--        go on at, then id and JSON of each backend ...
-- Reply  { version, after, first }; {} and no effect if the version is another

-- How far the counter leaps ahead when it may have fallen back: farther than the tickets that others may have seen since.
local LEAP = 1048576
local STARTS = 6

if (redis.call('GET', KEYS[1]) or '0') ~= ARGV[1] then
  return {}
end

local highest, offset, starts = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[STARTS])
local counter = tonumber(redis.call('GET', KEYS[4]) or 0)
if not counter then
  return redis.error_reply('ERR the rotation is not an integer')
end
local first
if counter < highest or has_lost_writes(redis.call('GET', KEYS[2]) or '') then
  counter = math.max(counter, highest) + LEAP
  redis.call('SET', KEYS[4], string.format('%.0f', counter))
  first = 0
else
  first = tonumber(ARGV[STARTS + 1 + (counter + offset) % starts])
end

local time = redis.call('TIME')
local newest = math.max(tonumber(ARGV[1]), tonumber(ARGV[5]))
local version = string.format('%.0f', math.max(newest + 1, time[1] * 1000000 + time[2]))
local replid, run = identity()
redis.call('DEL', KEYS[3])
redis.call('HSET', KEYS[3], unpack(ARGV, STARTS + 1 + starts))
redis.call('SET', KEYS[1], version)
redis.call('SET', KEYS[2],
  string.format('{"after":%.0f,"first":%d,"replid":"%s","run":"%s"}', counter, first, replid, run))
redis.call('PUBLISH', ARGV[4], 'topology')
return { version, string.format('%.0f', counter), first }
