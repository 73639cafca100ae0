-- Takes a process off the list. KEYS as in renew.lua; ARGV[1] id.
redis.call('ZREM', KEYS[1], ARGV[1])
return redis.call('HDEL', KEYS[2], ARGV[1])
