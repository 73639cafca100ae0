-- Claims an idempotency key: takes its lock, if nobody has it, and looks for an answer. A function,
-- so that it can ride along with BEGIN in one message and is still planned only once per session.
create function claim_idempotency_key(
    claimed bytea,
    lock_number bigint,
    out locked boolean,
    out body_hash bytea,
    out status smallint,
    out location text,
    out etag text,
    out body bytea
)
    language plpgsql
as $$
begin
    locked := pg_try_advisory_xact_lock(lock_number);
    -- A snapshot of its own, taken after the lock: what the one who had it before committed is
    -- seen here. Without the lock as well, since an answer may be read by several at once.
    select k.body_hash, k.status, k.location, k.etag, k.body
    into body_hash, status, location, etag, body
    from idempotency_keys k
    where k.scope = claimed and k.created_at > now() - interval '24 hours';
end
$$;
