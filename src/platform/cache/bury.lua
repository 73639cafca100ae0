-- Before a write commits: nobody reads, keeps or loads the entry for others until it is settled.
-- KEYS[1] entry, KEYS[2] lease; ARGV[1] the writer, ARGV[2] ms after which a writer that was never
-- heard of again is given up, ARGV[3] channel, ARGV[4] message.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('HMGET', KEYS[1], 'pending', 'lsn')
-- Writers of different things may share a list: it opens when the last of them has settled.
local pending = ARGV[1] .. '@' .. string.format('%.0f', now + ARGV[2])
for writer, deadline in string.gmatch(known[1] or '', '(%S+)@(%d+)') do
    if tonumber(deadline) > now then
        pending = pending .. ' ' .. writer .. '@' .. deadline
    end
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'pending', pending)
if known[2] then
    redis.call('HSET', KEYS[1], 'lsn', known[2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[4])
