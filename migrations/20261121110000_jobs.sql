-- Work outside of requests: the outbox of events, jobs, and the ticks of schedules.

-- Events that the relay has not passed on yet, written by the statement that writes the event.
-- Apart from `events`, which are never changed: a row lives here for milliseconds.
create table outbox (
    event_id uuid primary key
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

create table jobs (
    id uuid primary key,
    queue text not null,
    -- What to do: `<resource>.<verb>`, such as `orders.charge`.
    kind text not null,
    args jsonb not null,
    state text not null default 'available',
    -- Higher goes first.
    priority smallint not null default 0,
    -- Times it was begun, and how many there may be.
    attempt smallint not null default 0,
    max_attempts smallint not null,
    -- Fencing number: grows with every claim, so that a worker that lost the job can change
    -- nothing of it any more.
    fence int not null default 0,
    -- Of several unfinished jobs of a kind with the same key there is only one.
    unique_key text,
    run_at timestamptz not null default now(),
    worker text,
    lease_expires_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    -- Why the last attempt failed.
    error text,
    request_id text,
    traceparent text,
    created_at timestamptz not null default now(),
    constraint jobs_state_is_known check (state in
        ('scheduled', 'available', 'running', 'completed', 'dead', 'discarded')),
    constraint jobs_running_has_a_lease check ((state = 'running') = (lease_expires_at is not null)),
    constraint jobs_end_has_a_time check
        ((state in ('completed', 'dead', 'discarded')) = (finished_at is not null))
)
-- Rows are rewritten twice in seconds, and what is finished stays: a fifth of a large table would
-- be far too late.
with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02);

-- One partial index per question, so that none grows with what is finished.
create index jobs_available_idx on jobs (queue, priority desc, run_at, id)
    where state = 'available';
create index jobs_scheduled_idx on jobs (run_at, id) where state = 'scheduled';
create index jobs_running_idx on jobs (lease_expires_at, id) where state = 'running';
create index jobs_dead_idx on jobs (id desc) where state = 'dead';
create index jobs_finished_at_idx on jobs (finished_at)
    where state in ('completed', 'discarded');
create unique index jobs_unique_key_idx on jobs (kind, unique_key)
    where unique_key is not null and state in ('scheduled', 'available', 'running');

-- Queues that no job is begun of.
create table paused_queues (
    queue text primary key,
    paused_at timestamptz not null default now()
);

-- Every tick of a schedule that was begun: whoever inserts the row runs it.
create table schedule_ticks (
    schedule text not null,
    tick timestamptz not null,
    begun_at timestamptz not null default now(),
    primary key (schedule, tick)
);
