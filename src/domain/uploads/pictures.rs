//! Pictures of users and products: which upload is whose.
//!
//! The row of the user or product is locked first, so that of two who set its picture at once the
//! second lets go of what the first has set. Versions say which picture is older, whatever the
//! order in which transactions began.

use uuid::Uuid;

use super::{
    keys,
    model::{Purpose, Upload},
    queries,
    receive::Picture,
};
use crate::{
    domain::{
        products::{self, ProductResponse},
        users::{self, User},
    },
    platform::{
        db::Tx,
        http::{error::ApiError, etag::IfMatch},
    },
    state::AppState,
};

/// Gives a user another avatar, or none. The one before is let go of.
///
/// # Errors
/// 412; 422 for an upload that cannot be it.
pub(super) async fn set_avatar(
    app: &AppState,
    user_id: Uuid,
    if_match: &IfMatch,
    picture: &Picture,
) -> Result<User, ApiError> {
    let change = async {
        let mut tx = app.db.begin().await?;
        let upload_id = picture.complete(&mut tx).await?;
        let url = url(app, &mut tx, user_id, upload_id).await?;
        let user = users::set_avatar(&mut tx, user_id, if_match, url.as_deref()).await?;
        let change = Change { subject_id: user_id, version: user.version, owner_id: user_id };
        settle(&mut tx, change, Purpose::Avatar, upload_id).await?;
        tx.commit().await?;
        Ok(user)
    };
    let outcome = change.await;
    picture.clean_up(app, &outcome).await;
    outcome
}

/// The same for a product; the picture is the administrator's who sets it.
///
/// # Errors
/// 404; 412; 422 for an upload that cannot be it.
pub(super) async fn set_image(
    app: &AppState,
    owner_id: Uuid,
    product_id: Uuid,
    if_match: &IfMatch,
    picture: &Picture,
) -> Result<ProductResponse, ApiError> {
    let change = async {
        let mut tx = app.db.begin().await?;
        let upload_id = picture.complete(&mut tx).await?;
        let url = url(app, &mut tx, owner_id, upload_id).await?;
        let url = url.as_deref();
        let product = products::set_image(app, &mut tx, product_id, if_match, url).await?;
        let change = Change { subject_id: product_id, version: product.version, owner_id };
        settle(&mut tx, change, Purpose::ProductImage, upload_id).await?;
        tx.commit().await?;
        Ok(product)
    };
    let outcome = change.await;
    picture.clean_up(app, &outcome).await;
    outcome
}

/// A subject has another picture as of this version.
struct Change {
    subject_id: Uuid,
    version: i32,
    /// Whose uploads count.
    owner_id: Uuid,
}

async fn url(
    app: &AppState,
    tx: &mut Tx,
    owner_id: Uuid,
    upload_id: Option<Uuid>,
) -> Result<Option<String>, ApiError> {
    let Some(id) = upload_id else {
        return Ok(None);
    };
    let upload = queries::find(tx, id, Some(owner_id)).await?;
    match upload {
        Some(upload @ Upload { sha256: Some(_), .. }) => {
            let sha256 = upload.sha256.clone().unwrap_or_default();
            Ok(Some(keys::public_url(app, &upload, &sha256)))
        }
        _ => Err(no_picture()),
    }
}

/// What `url` has found may be gone, or another's picture, by now: this decides.
async fn settle(
    tx: &mut Tx,
    change: Change,
    purpose: Purpose,
    upload_id: Option<Uuid>,
) -> Result<(), ApiError> {
    let Change { subject_id, version, owner_id } = change;
    if let Some(id) = upload_id
        && !queries::attach(tx, id, owner_id, purpose, subject_id, version).await?
    {
        return Err(no_picture());
    }
    queries::release_older(tx, subject_id, version).await?;
    Ok(())
}

fn no_picture() -> ApiError {
    ApiError::invalid(
        "/upload_id",
        "not_found",
        "must be a completed upload of your own, for this purpose, and nobody else's picture",
    )
}
