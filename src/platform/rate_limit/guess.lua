-- Counts one guess at an account's password before it is looked at. Redis' own clock decides.
-- KEYS[1] guesses from anywhere; KEYS[2] guesses from this address; KEYS[3] exists if the owner has
-- proven itself from this address; ARGV[1] guesses that are free; ARGV[2] milliseconds until they
-- are forgotten.
-- Returns {allowed, free ones left, ms until all is forgotten, ms until the next may be made}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local quota, window = tonumber(ARGV[1]), tonumber(ARGV[2])
-- An address that is known is counted by itself: what others do to the account is not its fault.
local bucket = redis.call('EXISTS', KEYS[3]) == 1 and KEYS[2] or KEYS[1]
local state = redis.call('HMGET', bucket, 'count', 'next')
local count, next = (tonumber(state[1]) or 0) + 1, tonumber(state[2]) or 0
if next > now then
    return {0, 0, redis.call('PTTL', bucket), next - now}
end
local delay = 0
if count >= quota then
    -- A thirtieth of the window at first, twice as much each time, the whole window at most.
    delay = math.floor(math.min(window / 30 * 2 ^ math.min(count - quota, 30), window))
end
redis.call('HSET', bucket, 'count', count, 'next', now + delay)
redis.call('PEXPIRE', bucket, window + delay)
return {1, math.max(quota - count, 0), window + delay, 0}
