-- The generic cell rate algorithm for one bucket. Redis' own clock decides, so that a replica
-- whose clock is off cannot grant more or less than the others.
-- KEYS[1] bucket, further keys are only read; ARGV[1] microseconds between two requests; ARGV[2] requests that may come at
-- once; ARGV[3] what this one costs (0 only looks).
-- Returns {allowed, remaining, microseconds until all is back, microseconds until a retry may pass,
-- then the value of each further key}.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
-- The theoretical arrival time: when the bucket will be empty again.
-- Bounded, since after a fail-over the clock may be behind the one that wrote it.
local arrival = math.max(tonumber(redis.call('GET', KEYS[1])) or now, now)
arrival = math.min(arrival, now + interval * burst)
local after = arrival + interval * cost
local room = now + interval * burst - after
local answer
if room < 0 then
    local left = math.max(math.floor((now + interval * burst - arrival) / interval), 0)
    answer = {0, left, arrival - now, -room}
else
    if cost > 0 then
        local left = math.ceil((after - now) / 1000)
        redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', left)
    end
    answer = {1, math.floor(room / interval), after - now, 0}
end
for index = 2, #KEYS do
    answer[index + 3] = redis.call('GET', KEYS[index])
end
return answer
