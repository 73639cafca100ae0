-- What a transaction writes last: its events, and the answer to its idempotency key. Functions, so
-- that they can ride along with COMMIT in one message and are still planned only once per session.

-- The document is JSON: `request_id`, `traceparent` and `events`.
create function write_events(document bytea) returns void
    language plpgsql
as $$
declare
    told jsonb := convert_from(document, 'UTF8')::jsonb;
begin
    with written as (
        insert into events
            (id, type, subject_id, sequence, customer_id, data, request_id, traceparent)
        select e.id, e.kind, e.subject_id, e.sequence, e.customer_id, e.data,
               told ->> 'request_id', told ->> 'traceparent'
        from jsonb_to_recordset(told -> 'events')
            as e (id uuid, kind text, subject_id uuid, sequence int, customer_id uuid, data jsonb)
        returning id
    )
    insert into outbox (event_id) select id from written;
end
$$;

-- Refuses, as the primary key would, if the scope has an answer that is still good: another
-- request was faster.
create function keep_answer(
    scope bytea,
    body_hash bytea,
    status smallint,
    location text,
    etag text,
    body bytea
) returns void
    language plpgsql
as $$
begin
    insert into idempotency_keys as k (scope, body_hash, status, location, etag, body)
    values (keep_answer.scope, keep_answer.body_hash, keep_answer.status, keep_answer.location,
            keep_answer.etag, keep_answer.body)
    on conflict on constraint idempotency_keys_pkey do update
        set body_hash = excluded.body_hash, status = excluded.status,
            location = excluded.location, etag = excluded.etag, body = excluded.body,
            created_at = now()
        where k.created_at <= now() - interval '24 hours';
    if not found then
        raise unique_violation using constraint = 'idempotency_keys_pkey',
            message = 'the idempotency key has an answer';
    end if;
end
$$;
