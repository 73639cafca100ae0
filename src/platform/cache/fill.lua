-- Keeps what was loaded, unless something happened to the key since the load began.
-- KEYS[1] entry, KEYS[2] lease; ARGV[1] token, ARGV[2] lsn as 16 hexadecimal digits, ARGV[3] ms of
-- freshness, ARGV[4] ms of life, ARGV[5] ms that the load took, ARGV[6] meta, ARGV[7] body.
-- Returns 1 if it is kept.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
    -- Buried, flushed, or so slow that another one loads.
    return 0
end
redis.call('DEL', KEYS[2])
local known = redis.call('HMGET', KEYS[1], 'pending', 'lsn')
if known[1] or (known[2] and known[2] > ARGV[2]) then
    return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'lsn', ARGV[2], 'fresh', now + ARGV[3], 'cost', ARGV[5],
    'meta', ARGV[6], 'body', ARGV[7])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
