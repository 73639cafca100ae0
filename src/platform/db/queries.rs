//! What a server says of itself.

use sqlx::PgConnection;

use super::{conn::Conn, lsn::Lsn, position::Position};

/// Role, position in the log, timeline and cluster, as one statement: a promotion in between two
/// would give a picture that never was.
///
/// A primary's position is what it has flushed, since a standby can get no more. Its timeline is
/// in the name of its log file. A standby's is that of what it receives, which it only changes to
/// one that its own history leads to. Without the right to see that (`pg_read_all_stats`) it is
/// the one of its last restart point, which may be old: then the standby is left out for longer.
pub(super) async fn position(connection: &mut PgConnection) -> Result<Position, sqlx::Error> {
    let row = sqlx::query!(
        r#"
        select
            pg_is_in_recovery() as "is_in_recovery!",
            coalesce(
                case
                    when pg_is_in_recovery() then pg_last_wal_replay_lsn()
                    else pg_current_wal_flush_lsn()
                end,
                '0/0'
            )::text as "lsn!",
            case
                when pg_is_in_recovery() then greatest(
                    (select received_tli from pg_stat_wal_receiver),
                    (select timeline_id from pg_control_checkpoint()),
                    (select min_recovery_end_timeline from pg_control_recovery())
                )
                else ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::int
            end as "timeline!",
            (select system_identifier from pg_control_system()) as "system!",
            case when pg_is_in_recovery() then pg_is_wal_replay_paused() else false end
                as "is_paused!"
        "#
    )
    .fetch_one(connection)
    .await?;
    Ok(Position {
        is_in_recovery: row.is_in_recovery,
        lsn: row.lsn.parse::<Lsn>().map_err(|error| sqlx::Error::Decode(error.into()))?,
        timeline: row.timeline,
        system: row.system,
        is_paused: row.is_paused,
    })
}

/// How far the log is safely written, which is as far as replicas can get.
pub(super) async fn flushed(conn: &mut Conn) -> Result<Lsn, sqlx::Error> {
    let position = sqlx::query_scalar!(
        r#"select (pg_current_wal_flush_lsn() - '0/0')::bigint as "position!""#
    );
    Ok(Lsn(position.fetch_one(conn).await? as u64))
}
