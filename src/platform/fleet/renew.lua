-- Keeps a process listed for another while, and forgets those that were not heard of for theirs.
-- KEYS[1] when each lease ends, KEYS[2] what each process says of itself; ARGV[1] id, ARGV[2] ms of the
-- lease, ARGV[3] what it says. Returns how many are listed.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- As many as one command takes; the next renewal goes on.
local over = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1000)
if #over > 0 then
    redis.call('ZREM', KEYS[1], unpack(over))
    redis.call('HDEL', KEYS[2], unpack(over))
end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
-- Nothing stays of a fleet that is gone. Never sooner than the longest lease, should they differ.
for _, key in ipairs(KEYS) do
    if redis.call('PTTL', key) < tonumber(ARGV[2]) then
        redis.call('PEXPIRE', key, ARGV[2])
    end
end
return redis.call('ZCARD', KEYS[1])
