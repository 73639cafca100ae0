//! Statements on `users`.

use uuid::Uuid;

use super::model::{Email, NewUser, User};
use crate::platform::db::Conn;

pub async fn insert(conn: &mut Conn, new: &NewUser<'_>) -> Result<User, sqlx::Error> {
    sqlx::query_as!(
        User,
        "insert into users (id, email, name, role, password_hash) values ($1, $2, $3, $4, $5)
         returning id, email, name, role, avatar_url, version, created_at",
        Uuid::now_v7(),
        new.email.as_str(),
        new.name.as_str(),
        new.role,
        new.password_hash,
    )
    .fetch_one(conn)
    .await
}

pub async fn find(conn: &mut Conn, id: Uuid) -> Result<Option<User>, sqlx::Error> {
    sqlx::query_as!(
        User,
        "select id, email, name, role, avatar_url, version, created_at from users where id = $1",
        id,
    )
    .fetch_optional(conn)
    .await
}

pub(super) async fn find_by_email(
    conn: &mut Conn,
    email: &Email,
) -> Result<Option<User>, sqlx::Error> {
    sqlx::query_as!(
        User,
        "select id, email, name, role, avatar_url, version, created_at from users
         where email = $1",
        email.as_str(),
    )
    .fetch_optional(conn)
    .await
}

/// The user with an address, and the hash of its password.
pub async fn find_credentials(
    conn: &mut Conn,
    email: &Email,
) -> Result<Option<(User, String)>, sqlx::Error> {
    let row = sqlx::query!(
        "select id, email, name, role, avatar_url, version, created_at, password_hash
         from users where email = $1",
        email.as_str(),
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| {
        let user = User {
            id: row.id,
            email: row.email,
            name: row.name,
            role: row.role,
            avatar_url: row.avatar_url,
            version: row.version,
            created_at: row.created_at,
        };
        (user, row.password_hash)
    }))
}

pub async fn find_password_hash(conn: &mut Conn, id: Uuid) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!("select password_hash from users where id = $1", id)
        .fetch_optional(conn)
        .await
}

/// The hash, which nobody can change before the transaction ends.
pub async fn lock_password_hash(conn: &mut Conn, id: Uuid) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!("select password_hash from users where id = $1 for share", id)
        .fetch_optional(conn)
        .await
}

/// `false` if the hash is no longer `verified`: somebody else was faster.
pub async fn replace_password_hash(
    conn: &mut Conn,
    id: Uuid,
    verified: &str,
    hash: &str,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update users set password_hash = $3, updated_at = now()
         where id = $1 and password_hash = $2",
        id,
        verified,
        hash,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The version, with the row locked until the transaction ends.
pub(super) async fn find_version_for_update(
    conn: &mut Conn,
    id: Uuid,
) -> Result<Option<i32>, sqlx::Error> {
    sqlx::query_scalar!("select version from users where id = $1 for no key update", id)
        .fetch_optional(conn)
        .await
}

/// Makes others wait who lock the same user, until the transaction ends.
///
/// # Errors
/// The database refused.
pub async fn lock(conn: &mut Conn, id: Uuid) -> Result<(), sqlx::Error> {
    find_version_for_update(conn, id).await?;
    Ok(())
}

pub(super) async fn set_avatar(
    conn: &mut Conn,
    id: Uuid,
    url: Option<&str>,
) -> Result<User, sqlx::Error> {
    sqlx::query_as!(
        User,
        "update users set avatar_url = $2, version = version + 1, updated_at = now()
         where id = $1
         returning id, email, name, role, avatar_url, version, created_at",
        id,
        url,
    )
    .fetch_one(conn)
    .await
}

pub(super) async fn update(
    conn: &mut Conn,
    id: Uuid,
    name: Option<&str>,
) -> Result<User, sqlx::Error> {
    sqlx::query_as!(
        User,
        "update users
         set name = coalesce($2, name), version = version + 1, updated_at = now()
         where id = $1
         returning id, email, name, role, avatar_url, version, created_at",
        id,
        name,
    )
    .fetch_one(conn)
    .await
}

/// Newest first, from behind `before`.
pub(super) async fn list_page(
    conn: &mut Conn,
    before: Uuid,
    limit: i64,
) -> Result<Vec<User>, sqlx::Error> {
    sqlx::query_as!(
        User,
        "select id, email, name, role, avatar_url, version, created_at from users
         where id < $1 order by id desc limit $2",
        before,
        limit,
    )
    .fetch_all(conn)
    .await
}
