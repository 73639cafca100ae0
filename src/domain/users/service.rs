//! Use cases of users that are more than one statement.

use anyhow::Context;

use super::{
    model::{Email, Name, NewUser, User},
    queries,
};
use crate::platform::db::Db;

/// Makes an administrator: a new user, or the one who has the address already and then keeps its
/// password.
///
/// # Errors
/// The database refused.
pub async fn create_admin(
    db: &Db,
    email: &Email,
    name: &Name,
    password_hash: &str,
) -> anyhow::Result<User> {
    let mut tx = db.begin().await?;
    let admin = match queries::promote(&mut tx, email).await? {
        Some(user) => user,
        None => {
            let new = NewUser { email, name, role: "admin", password_hash };
            queries::insert(&mut tx, &new).await.context("cannot create the user")?
        }
    };
    tx.commit().await?;
    Ok(admin)
}
