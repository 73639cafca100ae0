-- Webhooks: who is told of which events, and what came of it.

create table webhook_endpoints (
    id uuid primary key,
    url text not null,
    description text not null,
    -- Types of events, `order.*` for all of a resource, `*` for all.
    events text[] not null,
    -- Needed as it is, to sign with.
    secret bytea not null,
    -- The one before the last rotation, which signs as well until its time is up.
    previous_secret bytea,
    previous_secret_expires_at timestamptz,
    -- The first failure after which nothing has succeeded.
    failing_since timestamptz,
    disabled_at timestamptz,
    disabled_reason text,
    version int not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint webhook_endpoints_have_events check (cardinality(events) > 0),
    constraint webhook_endpoints_disabled_has_a_reason check
        ((disabled_at is null) = (disabled_reason is null)),
    constraint webhook_endpoints_disabled_reason_is_known check
        (disabled_reason in ('by_hand', 'gone', 'failing')),
    constraint webhook_endpoints_previous_secret_expires check
        ((previous_secret is null) = (previous_secret_expires_at is null))
);

create table webhook_deliveries (
    -- The `webhook-id`, the same in every attempt.
    id uuid primary key,
    -- No foreign key: to delete what an endpoint was sent takes longer than a request has.
    endpoint_id uuid not null,
    event_id uuid not null,
    event_type text not null,
    -- As it is sent and signed, byte for byte.
    body text not null,
    state text not null default 'pending',
    -- Grows when it is delivered again by hand: the job of an earlier round does nothing.
    round int not null default 1,
    -- Of this round.
    attempts smallint not null default 0,
    response_status smallint,
    -- Why the last attempt failed.
    error text,
    last_attempt_at timestamptz,
    next_attempt_at timestamptz default now(),
    created_at timestamptz not null default now(),
    constraint webhook_deliveries_state_is_known check (state in ('pending', 'delivered', 'failed')),
    constraint webhook_deliveries_pending_has_a_time check
        ((state = 'pending') = (next_attempt_at is not null)),
    -- One `webhook-id` for each, however often it is fanned out; and the order of lists, since
    -- the id of an event is a time.
    constraint webhook_deliveries_endpoint_id_event_id_key unique (endpoint_id, event_id)
)
-- Updated once or twice and then left: room for that on the page, without touching an index.
with (fillfactor = 80);
create index webhook_deliveries_created_at_idx on webhook_deliveries using brin (created_at);
