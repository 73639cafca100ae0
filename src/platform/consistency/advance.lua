-- Moves a position forward, never back: a slow replica may report an older commit later.
-- KEYS[1] the position; ARGV[1] 16 hexadecimal digits, which compare as text; ARGV[2] seconds to keep it.
local known = redis.call('GET', KEYS[1])
if not known or known < ARGV[1] then
    redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
end
