-- Takes a lock that nobody has: its fencing number, or nothing.
-- KEYS[1] the lock, KEYS[2] its counter; ARGV[1] token; ARGV[2] milliseconds.
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
    return redis.call('INCR', KEYS[2])
end
-- A call whose answer was lost is sent again.
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return tonumber(redis.call('GET', KEYS[2]))
end
return false
