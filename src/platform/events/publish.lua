-- Passes events on to whoever listens now, and to other services by a stream of the newest.
-- KEYS[1] the stream; ARGV[1] the channel; ARGV[2] how many events the stream keeps, about;
-- then for each event: as replicas understand it, as CloudEvents; either is empty where it is not wanted.
-- Answers how many events are in the stream now: those from the first on.
local appended = 0
local is_refused = false
for at = 3, #ARGV, 2 do
    if ARGV[at] ~= '' then
        redis.call('PUBLISH', ARGV[1], ARGV[at])
    end
    -- A full Redis refuses the stream, and must not keep the rest from being told. What comes after
    -- one that is refused has to wait for it.
    if not is_refused and ARGV[at + 1] ~= '' then
        local answer = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'event', ARGV[at + 1])
        is_refused = type(answer) == 'table' and answer.err ~= nil
        if not is_refused then
            appended = appended + 1
        end
    end
end
return appended
