//! Statements on `uploads`.

use uuid::Uuid;

use super::model::{CreateUpload, Purpose, State, Upload};
use crate::platform::db::Conn;

/// How many bytes and files somebody may keep.
pub(super) struct Quota {
    pub(super) bytes: i64,
    pub(super) files: i64,
}

/// `None` if that is more than the quota allows. The caller has locked the owner: two at once would
/// not see each other.
pub(super) async fn insert(
    conn: &mut Conn,
    id: Uuid,
    owner_id: Uuid,
    new: &CreateUpload,
    quota: &Quota,
) -> Result<Option<Upload>, sqlx::Error> {
    sqlx::query_as!(
        Upload,
        r#"with kept as (
               select coalesce(sum(size), 0)::bigint as bytes, count(*) as files
               from uploads
               where owner_id = $2 and released_at is null
                 and (state = 'completed'
                      or state = 'pending' and expires_at > now() - interval '15 minutes')
                 -- What a product shows is the shop's.
                 and not (purpose = 'product_image' and subject_id is not null)
           )
           insert into uploads
               (id, owner_id, purpose, content_type, size, declared_sha256, expires_at)
           select $1, $2, $3, $4, $5, $6, now() + interval '15 minutes' from kept
           where kept.bytes + $5 <= $7 and kept.files < $8
           returning id, purpose as "purpose: Purpose", content_type, size, declared_sha256,
                     state as "state: State", reason, detail, sha256, width, height, has_variants,
                     created_at"#,
        id,
        owner_id,
        new.purpose as _,
        new.content_type.0.media_type(),
        new.size,
        new.checksum_sha256.as_ref().map(|hash| hash.0.as_slice()),
        quota.bytes,
        quota.files,
    )
    .fetch_optional(conn)
    .await
}

/// Of anybody if `owner_id` is `None`. A while after its time an unfinished upload is expired.
pub(super) async fn find(
    conn: &mut Conn,
    id: Uuid,
    owner_id: Option<Uuid>,
) -> Result<Option<Upload>, sqlx::Error> {
    sqlx::query_as!(
        Upload,
        r#"select id, purpose as "purpose: Purpose", content_type, size, declared_sha256,
                  case when state = 'pending' and expires_at <= now() - interval '15 minutes'
                      then 'expired' else state end as "state!: State",
                  reason, detail, sha256, width, height, has_variants, created_at
           from uploads
           where id = $1 and owner_id = coalesce($2, owner_id) and released_at is null"#,
        id,
        owner_id,
    )
    .fetch_optional(conn)
    .await
}

/// A picture that everybody may see: one that is, or was until a moment ago, somebody's.
pub(super) async fn find_shown(conn: &mut Conn, id: Uuid) -> Result<Option<Upload>, sqlx::Error> {
    sqlx::query_as!(
        Upload,
        r#"select id, purpose as "purpose: Purpose", content_type, size, declared_sha256,
                  state as "state: State", reason, detail, sha256, width, height, has_variants,
                  created_at
           from uploads where id = $1 and subject_id is not null"#,
        id,
    )
    .fetch_optional(conn)
    .await
}

/// What was found out about a file.
pub(super) struct Facts {
    pub(super) sha256: [u8; 32],
    pub(super) width: Option<i32>,
    pub(super) height: Option<i32>,
}

/// `None` if the upload is no longer pending: somebody else was faster. Nor is one completed long
/// after its time, by a process that was frozen: the sweep may be at it.
pub(super) async fn complete(
    conn: &mut Conn,
    id: Uuid,
    facts: &Facts,
) -> Result<Option<Upload>, sqlx::Error> {
    sqlx::query_as!(
        Upload,
        r#"update uploads
           set state = 'completed', sha256 = $2, width = $3, height = $4, completed_at = now()
           where id = $1 and state = 'pending' and released_at is null
             and expires_at > now() - interval '30 minutes'
           returning id, purpose as "purpose: Purpose", content_type, size, declared_sha256,
                     state as "state: State", reason, detail, sha256, width, height, has_variants,
                     created_at"#,
        id,
        &facts.sha256,
        facts.width,
        facts.height,
    )
    .fetch_optional(conn)
    .await
}

/// What has come through the API, for an upload whose size was a bound until now.
pub(super) async fn note_received(
    conn: &mut Conn,
    id: Uuid,
    size: i64,
    sha256: &[u8],
) -> Result<Option<Upload>, sqlx::Error> {
    sqlx::query_as!(
        Upload,
        r#"update uploads set size = $2, declared_sha256 = $3
           where id = $1 and state = 'pending' and released_at is null
           returning id, purpose as "purpose: Purpose", content_type, size, declared_sha256,
                     state as "state: State", reason, detail, sha256, width, height, has_variants,
                     created_at"#,
        id,
        size,
        sha256,
    )
    .fetch_optional(conn)
    .await
}

/// `false` if the upload is no longer pending.
pub(super) async fn reject(
    conn: &mut Conn,
    id: Uuid,
    reason: &str,
    detail: &str,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update uploads set state = 'rejected', reason = $2, detail = $3
         where id = $1 and state = 'pending' and released_at is null",
        id,
        reason,
        detail,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub(super) async fn note_variants(conn: &mut Conn, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!("update uploads set has_variants = true where id = $1", id).execute(conn).await?;
    Ok(())
}

/// Makes the upload the picture of a subject, as of this version of it. `false` if it is none for
/// that purpose, or the picture of another.
pub(super) async fn attach(
    conn: &mut Conn,
    id: Uuid,
    owner_id: Uuid,
    purpose: Purpose,
    subject_id: Uuid,
    version: i32,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update uploads set subject_id = $4, subject_version = $5
         where id = $1 and owner_id = $2 and purpose = $3 and state = 'completed'
           and released_at is null and (subject_id is null or subject_id = $4)",
        id,
        owner_id,
        purpose as _,
        subject_id,
        version,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Lets go of pictures that a subject had before this version of it.
pub(super) async fn release_older(
    conn: &mut Conn,
    subject_id: Uuid,
    version: i32,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update uploads set released_at = now()
         where subject_id = $1 and subject_version < $2 and released_at is null",
        subject_id,
        version,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Lets go of an upload that is nobody's picture.
pub(super) async fn release(
    conn: &mut Conn,
    id: Uuid,
    owner_id: Uuid,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update uploads set released_at = now()
         where id = $1 and owner_id = $2 and released_at is null and subject_id is null",
        id,
        owner_id,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Lets go of an upload unless it was completed. Waits for a transaction that is about to do so.
pub(super) async fn release_unfinished(conn: &mut Conn, id: Uuid) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update uploads set released_at = now()
         where id = $1 and state = 'pending' and released_at is null",
        id,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// An upload that nobody needs any longer.
#[derive(Debug)]
pub(super) struct Over {
    pub(super) id: Uuid,
    pub(super) purpose: Purpose,
    pub(super) sha256: Option<Vec<u8>>,
}

/// What was released some minutes ago, as pages that were made before may still show it; and what
/// was never finished, a day later, so that its owner can ask what became of it.
pub(super) async fn list_over(conn: &mut Conn, limit: i64) -> Result<Vec<Over>, sqlx::Error> {
    sqlx::query_as!(
        Over,
        r#"select id as "id!", purpose as "purpose!: Purpose", sha256
           from (
               select id, purpose, sha256 from uploads
               where released_at < now() - interval '10 minutes'
               union all
               select id, purpose, sha256 from uploads
               where state <> 'completed' and expires_at < now() - interval '1 day'
                 and released_at is null
           ) over_ limit $1"#,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// What was over is so still: nothing is released or expired back again.
pub(super) async fn delete(conn: &mut Conn, ids: &[Uuid]) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from uploads where id = any($1)", ids).execute(conn).await?;
    Ok(())
}

/// Those of these uploads whose file may still be on its way, or is being verified.
pub(super) async fn list_expected(conn: &mut Conn, ids: &[Uuid]) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "select id from uploads
         where id = any($1) and state = 'pending' and released_at is null
           and expires_at > now() - interval '15 minutes'",
        ids,
    )
    .fetch_all(conn)
    .await
}

/// Those of these uploads that have a verified file.
pub(super) async fn list_verified(conn: &mut Conn, ids: &[Uuid]) -> Result<Vec<Over>, sqlx::Error> {
    sqlx::query_as!(
        Over,
        r#"select id, purpose as "purpose: Purpose", sha256 from uploads
           where id = any($1) and sha256 is not null"#,
        ids,
    )
    .fetch_all(conn)
    .await
}
