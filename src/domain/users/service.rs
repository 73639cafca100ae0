//! Use cases of users that are more than one statement.

use anyhow::Context;

use super::{
    model::{Email, Name, NewUser, User},
    queries,
};
use crate::platform::{db::Db, tokens::Role};

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
