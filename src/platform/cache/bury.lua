-- Before a write commits: nobody reads, keeps or loads the entry for others until it is settled.
-- KEYS[1] entry, KEYS[2] lease; ARGV[1] the writer, ARGV[2] ms after which a writer that was never
-- heard of again is given up, ARGV[3] channel, ARGV[4] message.
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'pending', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[4])
