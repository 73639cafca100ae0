-- Moves a position forward, never back: a slow replica may report an older commit later.
-- KEYS[1] the position; ARGV[1] 16 hexadecimal digits, which compare as text; ARGV[2] seconds to keep it.
local known = redis.call('GET', KEYS[1])
if known and known >= ARGV[1] then
    return
end
local set = redis.pcall('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
if set.err then
    -- Full. Without a position the user reads from the primary, which is better than an old one.
    redis.call('DEL', KEYS[1])
end
