-- Events that Redis did not take into the stream for other services when they were passed on. They
-- follow, in the order of their ids, once it does: a row lives for as long as Redis is away, and no
-- more of them are kept than the stream has room for.
create table unstreamed_events (
    event_id uuid primary key
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
