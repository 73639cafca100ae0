//! What Postgres and PgBouncer say of themselves.
//!
//! By simple queries, not prepared as everywhere else: one of the questions is whether prepared
//! statements work, and PgBouncer's console knows none.

use std::collections::HashMap;

use sqlx::{Error, PgConnection, Row, raw_sql};

use super::{
    pooler::Database,
    postgres::{Applied, Server, Standby},
    timeouts::RoleTimeouts,
};
use std::time::Duration;

/// Version, settings and rights, as the application's role sees them.
pub(super) async fn server(connection: &mut PgConnection) -> Result<Server, Error> {
    let row = raw_sql(
        "with setting as (
            select name, setting from pg_settings
         ), owned as (
            select c.oid::regclass::text as name from pg_class c
            where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f') and pg_has_role(c.relowner, 'MEMBER')
              and c.relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
              and c.relpersistence <> 't'
            union all
            select 'schema ' || nspname from pg_namespace where pg_has_role(nspowner, 'MEMBER')
            union all
            select 'database ' || datname from pg_database
            where datname = current_database() and pg_has_role(datdba, 'MEMBER')
         ), may_create_in as (
            select 'schema ' || nspname as name from pg_namespace
            where has_schema_privilege(oid, 'CREATE') and nspname !~ '^pg_(temp|toast)'
            union all
            select 'database ' || current_database()
            where has_database_privilege(current_database(), 'CREATE')
         )
         select
            current_setting('server_version_num')::int as version,
            pg_is_in_recovery() as is_in_recovery,
            (select system_identifier::text from pg_control_system()) as system,
            extract(epoch from clock_timestamp())::float8 as now,
            current_user::text as role,
            current_setting('transaction_read_only')::bool as is_read_only,
            current_setting('max_connections')::bigint as max_connections,
            (select sum(setting::bigint)::bigint from setting
             where name in ('superuser_reserved_connections', 'reserved_connections')) as reserved,
            (select setting::bigint from setting where name = 'statement_timeout') as statement_ms,
            (select setting::bigint from setting where name = 'lock_timeout') as lock_ms,
            (select setting::bigint from setting
             where name = 'idle_in_transaction_session_timeout') as idle_ms,
            (select setting::bigint from setting where name = 'max_slot_wal_keep_size') as slot_megabytes,
            (select count(*) from pg_replication_slots) as slots,
            (select count(*) from pg_replication_slots where not active) as idle_slots,
            array(select name || '=' || setting from setting where name in
                ('fsync', 'full_page_writes', 'synchronous_commit', 'synchronous_standby_names',
                 'wal_level', 'hot_standby_feedback') order by name)::text[] as settings,
            array_remove(array[
                case when rolsuper then 'superuser' end,
                case when rolcreaterole then 'createrole' end,
                case when rolcreatedb then 'createdb' end,
                case when rolreplication then 'replication' end,
                case when rolbypassrls then 'bypassrls' end], null)::text[] as attributes,
            array(select name from owned order by 1 limit 3)::text[] as owned,
            array(select name from may_create_in order by 1 limit 3)::text[] as may_create_in
         from pg_roles where rolname = current_user",
    )
    .fetch_one(connection)
    .await?;
    let millis = |column| {
        let millis = row.try_get::<i64, _>(column)?;
        Ok::<_, Error>(Duration::from_millis(millis.unsigned_abs()))
    };
    let settings: Vec<String> = row.try_get("settings")?;
    Ok(Server {
        version: row.try_get("version")?,
        is_in_recovery: row.try_get("is_in_recovery")?,
        is_read_only: row.try_get("is_read_only")?,
        system: row.try_get("system")?,
        now: row.try_get("now")?,
        role: row.try_get("role")?,
        max_connections: row.try_get("max_connections")?,
        reserved: row.try_get("reserved")?,
        timeouts: RoleTimeouts {
            statement: millis("statement_ms")?,
            lock: millis("lock_ms")?,
            idle_in_transaction: millis("idle_ms")?,
        },
        slots: row.try_get("slots")?,
        idle_slots: row.try_get("idle_slots")?,
        slot_megabytes: row.try_get("slot_megabytes")?,
        settings: settings
            .iter()
            .filter_map(|setting| setting.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        attributes: row.try_get("attributes")?,
        owned: row.try_get("owned")?,
        may_create_in: row.try_get("may_create_in")?,
    })
}

/// How a standby follows. Without `pg_read_all_stats` its receiver cannot be seen.
pub(super) async fn standby(connection: &mut PgConnection) -> Result<Standby, Error> {
    let row = raw_sql(
        "select
            (select status from pg_stat_wal_receiver) as receiver,
            case when pg_is_in_recovery() then pg_is_wal_replay_paused() else false end as is_paused,
            (select setting::bigint from pg_settings where name = 'max_standby_streaming_delay')
                as standby_delay_ms",
    )
    .fetch_one(connection)
    .await?;
    Ok(Standby {
        receiver: row.try_get("receiver")?,
        is_paused: row.try_get("is_paused")?,
        // -1 is for ever.
        delay: u64::try_from(row.try_get::<i64, _>("standby_delay_ms")?)
            .ok()
            .map(Duration::from_millis),
    })
}

/// The migrations that were applied; `None` where there never was one.
pub(super) async fn applied(connection: &mut PgConnection) -> Result<Option<Vec<Applied>>, Error> {
    let rows = raw_sql(
        "select version, success, encode(checksum, 'hex') as checksum
         from _sqlx_migrations order by version",
    )
    .fetch_all(connection)
    .await;
    let rows = match rows {
        Err(error) if code(&error).as_deref() == Some("42P01") => return Ok(None),
        rows => rows?,
    };
    let applied = |row: &sqlx::postgres::PgRow| {
        Ok(Applied {
            version: row.try_get("version")?,
            has_succeeded: row.try_get("success")?,
            checksum: row.try_get("checksum")?,
        })
    };
    rows.iter().map(applied).collect::<Result<_, Error>>().map(Some)
}

/// Each table that is partitioned by month, and its partitions: one of them at least is called
/// after a month. Whoever shares the database may have others, of no concern to this service.
pub(super) async fn partitions(
    connection: &mut PgConnection,
) -> Result<Vec<(String, Vec<String>)>, Error> {
    let rows = raw_sql(
        "select p.relname::text as parent,
            array(select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid
                  where i.inhparent = p.oid order by 1)::text[] as partitions
         from pg_class p
         where p.relkind = 'p' and p.relnamespace = 'public'::regnamespace
           and exists (select from pg_inherits i join pg_class c on c.oid = i.inhrelid
                       where i.inhparent = p.oid and c.relname ~ '_y[0-9]{4}m[0-9]{2}$')
         order by 1",
    )
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok((row.try_get("parent")?, row.try_get("partitions")?))).collect()
}

/// Rows of each default partition by the table that it is of, counted up to 1,000.
pub(super) async fn default_rows(
    connection: &mut PgConnection,
) -> Result<HashMap<String, i64>, Error> {
    let rows = raw_sql("select parent, row_count from rows_in_default_partitions()")
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| Ok((row.try_get("parent")?, row.try_get("row_count")?))).collect()
}

/// How far the log of a primary is written, in bytes.
pub(super) async fn flushed(connection: &mut PgConnection) -> Result<i64, Error> {
    let row = raw_sql("select (pg_current_wal_flush_lsn() - '0/0')::bigint as position")
        .fetch_one(connection)
        .await?;
    row.try_get("position")
}

/// How far a standby has replayed it.
pub(super) async fn replayed(connection: &mut PgConnection) -> Result<i64, Error> {
    let row = raw_sql("select coalesce(pg_last_wal_replay_lsn() - '0/0', 0)::bigint as position")
        .fetch_one(connection)
        .await?;
    row.try_get("position")
}

/// `PgBouncer 1.24.1`.
pub(super) async fn pooler_version(connection: &mut PgConnection) -> Result<String, Error> {
    raw_sql("show version").fetch_one(connection).await?.try_get(0)
}

pub(super) async fn pooler_config(
    connection: &mut PgConnection,
) -> Result<HashMap<String, String>, Error> {
    let rows = raw_sql("show config").fetch_all(connection).await?;
    let setting = |row: &sqlx::postgres::PgRow| {
        let value: Option<String> = row.try_get("value")?;
        Ok((row.try_get("key")?, value.unwrap_or_default()))
    };
    rows.iter().map(setting).collect()
}

/// What PgBouncer makes of one database, which may be otherwise than of others.
pub(super) async fn pooler_database(
    connection: &mut PgConnection,
    name: &str,
) -> Result<Option<Database>, Error> {
    let rows = raw_sql("show databases").fetch_all(connection).await?;
    for row in rows {
        if row.try_get::<String, _>("name")? == name {
            // Called `reserve_pool` before PgBouncer 1.24.
            let reserve = row.try_get("reserve_pool_size").or_else(|_| row.try_get("reserve_pool"));
            return Ok(Some(Database {
                pool_size: row.try_get::<i32, _>("pool_size")?,
                reserve: reserve?,
                pool_mode: row.try_get("pool_mode")?,
            }));
        }
    }
    Ok(None)
}

/// The code of an error that a server has told.
pub(super) fn code(error: &Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}
