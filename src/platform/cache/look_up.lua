-- What is known of a key, and who may load it. One lease at a time, for the whole fleet.
-- KEYS[1] entry, KEYS[2] lease; ARGV[1] a token for the lease, ARGV[2] milliseconds it lasts,
-- ARGV[3] how early to refresh, in costs of a load (XFetch: exponentially distributed).
-- Returns {state, meta, body, freshness in ms, lsn}.
local entry = redis.call('HMGET', KEYS[1], 'pending', 'lsn', 'fresh', 'cost', 'meta', 'body')
if entry[1] then
    return {'closed'}
end
local function lease()
    return redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2])
end
if not entry[3] then
    return {lease() and 'load' or 'wait', '', '', 0, entry[2] or ''}
end
local time = redis.call('TIME')
local left = tonumber(entry[3]) - (time[1] * 1000 + math.floor(time[2] / 1000))
local state = left > 0 and 'fresh' or 'stale'
if left <= tonumber(entry[4]) * tonumber(ARGV[3]) and lease() then
    state = 'refresh'
end
return {state, entry[5], entry[6], left, entry[2]}
