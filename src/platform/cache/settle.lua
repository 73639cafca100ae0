-- After a write committed: nothing older than its position is kept, from now on.
-- KEYS[1] entry, KEYS[2] lease; ARGV[1] the writer, ARGV[2] its lsn as 16 hexadecimal digits,
-- ARGV[3] ms to remember it, ARGV[4] channel, ARGV[5] message.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('HMGET', KEYS[1], 'pending', 'lsn')
local newest = known[2] and known[2] > ARGV[2] and known[2] or ARGV[2]
local others = {}
for writer, deadline in string.gmatch(known[1] or '', '(%S+)@(%d+)') do
    if writer ~= ARGV[1] and tonumber(deadline) > now then
        others[#others + 1] = writer .. '@' .. deadline
    end
end
if #others > 0 then
    -- They have buried it as well, and will settle it.
    redis.call('HSET', KEYS[1], 'lsn', newest, 'pending', table.concat(others, ' '))
    return
end
if not known[1] and known[2] == newest then
    return
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'lsn', newest)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
if not known[1] then
    -- It was not buried beforehand, so nobody has been told yet.
    redis.call('PUBLISH', ARGV[4], ARGV[5])
end
