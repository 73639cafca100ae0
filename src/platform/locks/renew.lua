-- Keeps a lock for longer, if it is still one's own: whether it was.
-- KEYS[1] the lock; ARGV[1] token; ARGV[2] milliseconds.
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
