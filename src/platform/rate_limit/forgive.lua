-- Forgives the guesses that were counted where this one was, and remembers the address.
-- KEYS as in guess.lua; ARGV[1] seconds for which an address stays known.
local known = redis.call('EXISTS', KEYS[3]) == 1
redis.call('DEL', known and KEYS[2] or KEYS[1])
redis.call('SET', KEYS[3], '1', 'EX', ARGV[1])
return 1
