-- What the platform needs, whatever the domain: roles' rights, month partitions, sessions,
-- idempotency keys, events.

-- The application's role may use the tables but not change the schema. It is made with the
-- cluster (postgres/roles.sql), since roles belong to no single database.
alter default privileges in schema public grant select, insert, update, delete on tables to shoal_app;
alter default privileges in schema public grant execute on functions to shoal_app;
grant usage on schema public to shoal_app;
-- Made by the migrator itself before this file ran. `serve` reads it to refuse an old schema.
grant select on _sqlx_migrations to shoal_app;

-- A UUIDv7 begins with its time in milliseconds, so a range of ids is a range of time. This is
-- the smallest id of an instant.
create function uuid_at(instant timestamptz) returns uuid
    language sql immutable strict parallel safe
    return (lpad(to_hex((extract(epoch from instant) * 1000)::bigint), 12, '0')
        || repeat('0', 20))::uuid;

-- Makes the partitions `name_yYYYYmMM` of a table that is partitioned by range of a UUIDv7, from
-- the current month to `months_ahead` later. Safe to repeat. Runs with its owner's rights, so
-- that a schedule of the application can call it without having DDL itself.
create function create_month_partitions(parent text, months_ahead int) returns void
    language plpgsql security definer set search_path = public, pg_temp
as $$
declare
    month timestamptz;
begin
    for step in 0..months_ahead loop
        month := (date_trunc('month', now() at time zone 'UTC') + make_interval(months => step))
            at time zone 'UTC';
        execute format(
            'create table if not exists %I partition of %I for values from (%L) to (%L)',
            parent || to_char(month at time zone 'UTC', '"_y"YYYY"m"MM'),
            parent,
            uuid_at(month),
            uuid_at(month + interval '1 month')
        );
        -- A partition has rights of its own: the parent's append-only rule has to be repeated.
        if parent = 'events' then
            execute format('revoke update, delete on %I from shoal_app',
                parent || to_char(month at time zone 'UTC', '"_y"YYYY"m"MM'));
        end if;
    end loop;
end
$$;
revoke execute on function create_month_partitions(text, int) from public;

-- Sessions: durable here, hot in Redis. `user_id` has no foreign key, since users belong to the
-- domain.
create table sessions (
    id uuid primary key,
    user_id uuid not null,
    user_agent text not null,
    ip inet not null,
    created_at timestamptz not null default now(),
    last_seen_at timestamptz not null default now(),
    -- The absolute end; the idle one is that of the newest refresh token.
    expires_at timestamptz not null,
    revoked_at timestamptz
);
create index sessions_user_id_id_idx on sessions (user_id, id desc) where revoked_at is null;

-- One row per refresh token ever issued in a session that lives: a used one that comes back is a
-- theft, and ends the session.
create table refresh_tokens (
    token_hash bytea primary key,
    session_id uuid not null references sessions (id) on delete cascade,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    used_at timestamptz,
    constraint refresh_tokens_hash_is_sha256 check (length(token_hash) = 32)
);
create index refresh_tokens_session_id_idx on refresh_tokens (session_id);

-- The answer to a request, remembered in the transaction that made it true.
create table idempotency_keys (
    -- SHA-256 of user, method, route and key.
    scope bytea primary key,
    body_hash bytea not null,
    status smallint not null,
    location text,
    etag text,
    body bytea not null,
    created_at timestamptz not null default now(),
    constraint idempotency_keys_scope_is_sha256 check (length(scope) = 32)
);
create index idempotency_keys_created_at_idx on idempotency_keys using brin (created_at);

-- What happened: outbox, audit trail and source of the read models at once. Written in the
-- transaction of the change it tells of, and never changed.
create table events (
    id uuid primary key,
    -- `<resource>.<past participle>`, such as `order.created`.
    type text not null,
    subject_id uuid not null,
    -- The version of the subject that it made: clocks of replicas differ, this does not. Without
    -- a gap where every change is an event, as with orders.
    sequence int not null,
    -- Whose data it is; null for what belongs to nobody, such as the catalogue.
    customer_id uuid,
    data jsonb not null,
    request_id text,
    traceparent text,
    created_at timestamptz not null default now(),
    constraint events_sequence_is_positive check (sequence > 0)
) partition by range (id);
create table events_default partition of events default;
select create_month_partitions('events', 3);
create index events_subject_id_sequence_idx on events (subject_id, sequence);
revoke update, delete on events, events_default from shoal_app;
