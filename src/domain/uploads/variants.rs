//! Smaller copies of pictures, made after an upload is completed.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{jobs::UPLOADS, keys, queries};
use crate::{
    platform::{
        images,
        jobs::{Failure, Job, Lease, Queue},
        storage::NewObject,
    },
    state::AppState,
};

/// Makes the smaller copies. Again does no harm: the same bytes go under the same keys.
#[derive(Serialize, Deserialize)]
pub(super) struct MakeVariants {
    pub(super) upload_id: Uuid,
}

impl Job for MakeVariants {
    type State = AppState;

    const KIND: &'static str = "uploads.make_variants";
    const QUEUE: &'static Queue = &UPLOADS;

    fn unique_key(&self) -> Option<String> {
        Some(self.upload_id.to_string())
    }

    async fn run(self, app: &AppState, _: &Lease) -> Result<(), Failure> {
        let upload = queries::find(&mut app.db.primary().await?, self.upload_id, None).await?;
        let Some(upload) = upload.filter(|upload| !upload.has_variants) else {
            return Ok(());
        };
        let Some(sha256) = upload.sha256 else {
            return Ok(());
        };
        let key = keys::kept(upload.purpose, &sha256, upload.id);
        let turn = app.file_checks.take().await;
        let turn = turn.map_err(|_| Failure::postpone_while_kept_away())?;
        let bytes = app.storage.read(&key, upload.size.unsigned_abs()).await?;
        let shrink = move || keys::EDGES.map(|edge| (edge, images::variant(&bytes, edge)));
        let (_turn, made) = turn.run(shrink).await.map_err(Failure::retry)?;
        for (edge, variant) in made {
            let variant = variant.map_err(Failure::hopeless)?;
            let key = keys::variant(&key, edge);
            let new = NewObject { key: &key, content_type: "image/webp" };
            app.storage.put(&new, variant.into()).await?;
        }
        Ok(queries::note_variants(&mut app.db.primary().await?, upload.id).await?)
    }
}
