//! Use cases of users that are more than one statement.

use anyhow::Context;
use serde_json::json;
use uuid::Uuid;

use super::{
    model::{Email, Name, NewUser, User},
    queries,
};
use crate::platform::{
    db::{Db, Tx},
    events::{self, NewEvent},
    http::{error::ApiError, etag::IfMatch},
    tokens::Role,
};

/// Makes an administrator. One who is one already stays as it is.
///
/// # Errors
/// The address belongs to a customer: anybody may have registered it, and would get the role.
pub async fn create_admin(
    db: &Db,
    email: &Email,
    name: &Name,
    password_hash: &str,
) -> anyhow::Result<User> {
    let mut tx = db.begin().await?;
    if let Some(user) = queries::find_by_email(&mut tx, email).await? {
        anyhow::ensure!(
            user.role() == Role::Admin,
            "{} is a customer's account, which anybody may have registered; use another address",
            email.as_str()
        );
        return Ok(user);
    }
    let new = NewUser { email, name, role: "admin", password_hash };
    let admin = queries::insert(&mut tx, &new).await.context("cannot create the user")?;
    tx.commit().await?;
    Ok(admin)
}

/// Gives a user another picture, or none.
///
/// # Errors
/// 404, 412.
pub async fn set_avatar(
    tx: &mut Tx,
    id: Uuid,
    if_match: &IfMatch,
    url: Option<&str>,
) -> Result<User, ApiError> {
    let version = queries::find_version_for_update(tx, id).await?;
    if_match.check(version.ok_or_else(ApiError::not_found)?)?;
    let user = queries::set_avatar(tx, id, url).await?;
    let event = NewEvent {
        kind: "user.avatar_changed",
        subject_id: id,
        sequence: user.version,
        customer_id: None,
        data: &json!({ "user_id": id, "avatar_url": url }),
    };
    events::emit(tx, &event)?;
    Ok(user)
}
