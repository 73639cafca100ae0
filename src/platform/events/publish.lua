-- Passes events on to whoever listens now, and to other services by a stream of the newest.
-- KEYS[1] the stream; ARGV[1] the channel; ARGV[2] how many events the stream keeps, about;
-- then for each event: as replicas understand it, as CloudEvents.
for at = 3, #ARGV, 2 do
    redis.call('PUBLISH', ARGV[1], ARGV[at])
    -- A full Redis refuses the stream, and must not keep the rest from being told.
    redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'event', ARGV[at + 1])
end
