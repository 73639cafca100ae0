-- What schedules of the workers call: partitions and statistics. The application's role has no
-- DDL, so these run with their owner's rights.

-- As before, but by attaching: CREATE TABLE ... PARTITION OF locks the parent against everybody,
-- ATTACH only its default partition, which is empty. It does not wait for long either, since
-- whoever comes after it would wait as well: the schedule tries again.
create or replace function create_month_partitions(parent text, months_ahead int) returns void
    language plpgsql security definer set search_path = public, pg_temp set lock_timeout = '500ms'
as $$
declare
    month timestamptz;
    partition text;
begin
    for step in 0..months_ahead loop
        month := (date_trunc('month', now() at time zone 'UTC') + make_interval(months => step))
            at time zone 'UTC';
        partition := parent || to_char(month at time zone 'UTC', '"_y"YYYY"m"MM');
        continue when to_regclass(quote_ident(partition)) is not null;
        execute format('create table %I (like %I including all)', partition, parent);
        execute format(
            'alter table %I attach partition %I for values from (%L) to (%L)',
            parent,
            partition,
            uuid_at(month),
            uuid_at(month + interval '1 month')
        );
        -- A partition has rights of its own: the parent's append-only rule has to be repeated.
        if parent = 'events' then
            execute format('revoke update, delete on %I from shoal_app', partition);
        end if;
    end loop;
end
$$;

-- Detaches the month partitions of a table that lie more than `months_kept` before the current
-- month: their names. They stay as tables of their own, which nobody but their owner changes, to
-- be archived and dropped by a person. DETACH ... CONCURRENTLY cannot run in a function, so this
-- locks the parent against everybody for a moment, and gives up rather than wait for it.
create function detach_month_partitions(parent text, months_kept int) returns setof text
    language plpgsql security definer set search_path = public, pg_temp set lock_timeout = '500ms'
as $$
declare
    partition text;
    oldest text;
begin
    if months_kept < 1 then
        raise exception 'at least one month is kept besides the current one';
    end if;
    oldest := parent || to_char(
        date_trunc('month', now() at time zone 'UTC') - make_interval(months => months_kept),
        '"_y"YYYY"m"MM');
    for partition in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = to_regclass(quote_ident(parent))
          and c.relname ~ ('^' || parent || '_y\d{4}m\d{2}$') and c.relname < oldest
        order by c.relname
    loop
        execute format('alter table %I detach partition %I', parent, partition);
        execute format('revoke insert, update, delete on %I from shoal_app', partition);
        return next partition;
    end loop;
end
$$;

-- Autovacuum gathers statistics of partitions, never of the table that they are of, which is
-- what the planner asks about when it cannot tell the partition.
create function refresh_statistics(parent text) returns void
    language plpgsql security definer set search_path = public, pg_temp set lock_timeout = '500ms'
as $$
begin
    if not exists (select from pg_class where oid = to_regclass(quote_ident(parent)) and relkind = 'p') then
        raise exception '% is not a partitioned table', parent;
    end if;
    execute format('analyze %I', parent);
end
$$;

-- How many rows each default partition has, counted up to a thousand: none, if the months were
-- made in time.
create function rows_in_default_partitions(out parent text, out row_count bigint) returns setof record
    language plpgsql stable set search_path = public, pg_temp
as $$
declare
    partition text;
begin
    for parent, partition in
        select p.relname, c.relname
        from pg_partitioned_table t
        join pg_class p on p.oid = t.partrelid
        join pg_class c on c.oid = t.partdefid
        order by p.relname
    loop
        execute format('select count(*) from (select from %I limit 1000) as looked_at', partition)
            into row_count;
        return next;
    end loop;
end
$$;

revoke execute on function detach_month_partitions(text, int) from public;
revoke execute on function refresh_statistics(text) from public;

-- Purges look for what is over; both tables grow in the order of these times, nearly.
create index sessions_expires_at_idx on sessions using brin (expires_at);
create index sessions_revoked_at_idx on sessions (revoked_at) where revoked_at is not null;
create index refresh_tokens_expires_at_idx on refresh_tokens using brin (expires_at);
