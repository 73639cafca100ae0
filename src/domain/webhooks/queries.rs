//! Statements on `webhook_endpoints`.

use uuid::Uuid;

use super::model::{CreateEndpoint, Endpoint, UpdateEndpoint};
use crate::platform::{db::Conn, webhooks::Secret};

/// `None` if there are `most` endpoints already.
pub(super) async fn insert(
    conn: &mut Conn,
    new: &CreateEndpoint,
    secret: &Secret,
    most: i64,
) -> Result<Option<Endpoint>, sqlx::Error> {
    sqlx::query_as!(
        Endpoint,
        "insert into webhook_endpoints (id, url, description, events, secret)
         select $1, $2, $3, $4, $5
         where (select count(*) from webhook_endpoints) < $6
         returning id, url, description, events, previous_secret_expires_at, failing_since,
                   disabled_at, disabled_reason, version, created_at, updated_at",
        Uuid::now_v7(),
        new.url.0.as_str(),
        new.description.as_ref().map_or("", |text| text.as_str()),
        new.events.as_slice(),
        secret.as_bytes(),
        most,
    )
    .fetch_optional(conn)
    .await
}

pub(super) async fn find(conn: &mut Conn, id: Uuid) -> Result<Option<Endpoint>, sqlx::Error> {
    sqlx::query_as!(
        Endpoint,
        "select id, url, description, events, previous_secret_expires_at, failing_since,
                disabled_at, disabled_reason, version, created_at, updated_at
         from webhook_endpoints where id = $1",
        id,
    )
    .fetch_optional(conn)
    .await
}

/// Newest first, from behind `before`.
pub(super) async fn list_page(
    conn: &mut Conn,
    before: Uuid,
    limit: i64,
) -> Result<Vec<Endpoint>, sqlx::Error> {
    sqlx::query_as!(
        Endpoint,
        "select id, url, description, events, previous_secret_expires_at, failing_since,
                disabled_at, disabled_reason, version, created_at, updated_at
         from webhook_endpoints where id < $1 order by id desc limit $2",
        before,
        limit,
    )
    .fetch_all(conn)
    .await
}

/// The version, with the row locked until the transaction ends.
pub(super) async fn find_version_for_update(
    conn: &mut Conn,
    id: Uuid,
) -> Result<Option<i32>, sqlx::Error> {
    sqlx::query_scalar!(
        "select version from webhook_endpoints where id = $1 for no key update",
        id,
    )
    .fetch_optional(conn)
    .await
}

/// Whether it is enabled; it stays so until the transaction ends.
pub(super) async fn lock_enabled(conn: &mut Conn, id: Uuid) -> Result<Option<bool>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select disabled_at is null as "is_enabled!" from webhook_endpoints
           where id = $1 for share"#,
        id,
    )
    .fetch_optional(conn)
    .await
}

pub(super) async fn update(
    conn: &mut Conn,
    id: Uuid,
    change: &UpdateEndpoint,
) -> Result<Endpoint, sqlx::Error> {
    sqlx::query_as!(
        Endpoint,
        "update webhook_endpoints
         set url = coalesce($2, url), description = coalesce($3, description),
             events = coalesce($4, events),
             disabled_at = case $5::bool when true then null
                 when false then coalesce(disabled_at, now()) else disabled_at end,
             disabled_reason = case $5::bool when true then null
                 when false then coalesce(disabled_reason, 'by_hand') else disabled_reason end,
             -- Who is enabled again begins anew.
             failing_since = case $5::bool when true then null else failing_since end,
             version = version + 1, updated_at = now()
         where id = $1
         returning id, url, description, events, previous_secret_expires_at, failing_since,
                   disabled_at, disabled_reason, version, created_at, updated_at",
        id,
        change.url.as_ref().map(|url| url.0.as_str()),
        change.description.as_ref().map(|text| text.as_str()),
        change.events.as_ref().map(|events| events.as_slice()) as Option<&[String]>,
        change.enabled,
    )
    .fetch_one(conn)
    .await
}

/// The secret there was until now signs as well for a day.
pub(super) async fn rotate_secret(
    conn: &mut Conn,
    id: Uuid,
    secret: &Secret,
) -> Result<Option<Endpoint>, sqlx::Error> {
    sqlx::query_as!(
        Endpoint,
        "update webhook_endpoints
         set previous_secret = secret, previous_secret_expires_at = now() + interval '24 hours',
             secret = $2, version = version + 1, updated_at = now()
         where id = $1
         returning id, url, description, events, previous_secret_expires_at, failing_since,
                   disabled_at, disabled_reason, version, created_at, updated_at",
        id,
        secret.as_bytes(),
    )
    .fetch_optional(conn)
    .await
}

/// What it was sent goes with time.
pub(super) async fn delete(conn: &mut Conn, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from webhook_endpoints where id = $1", id).execute(conn).await?;
    Ok(())
}
