-- Who has a lease. KEYS as in renew.lua. Returns, one after the other, when each lease ends (ms) and what its
-- process says of itself.
local time = redis.call('TIME')
local now = string.format('(%d', time[1] * 1000 + math.floor(time[2] / 1000))
local live = redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf', 'WITHSCORES', 'LIMIT', 0, 10000)
local listed = {}
for at = 1, #live, 2 do
    local says = redis.call('HGET', KEYS[2], live[at])
    if says then
        table.insert(listed, tonumber(live[at + 1]))
        table.insert(listed, says)
    end
end
return listed
