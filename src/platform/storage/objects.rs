//! What is done with objects.

use std::time::Duration;

use aws_sdk_s3::{
    error::DisplayErrorContext,
    primitives::ByteStream,
    types::{Delete, ObjectIdentifier},
};
use bytes::Bytes;
use futures::FutureExt;
use time::OffsetDateTime;

use super::{Error, Storage, buffers::Buffer};

/// Objects never change under their key, and are nothing to be opened in a page.
pub(super) const IMMUTABLE: &str = "public, max-age=31536000, immutable";
pub(super) const ATTACHMENT: &str = "attachment";

/// Keys that one deletion may name.
pub const MOST_KEYS: usize = 1_000;

/// An object to be made.
pub struct NewObject<'a> {
    pub key: &'a str,
    pub content_type: &'a str,
}

/// A part of a list.
#[derive(Debug, Default)]
pub struct Page {
    pub objects: Vec<Listed>,
    /// Whether there are more behind the last one.
    pub has_more: bool,
}

#[derive(Debug)]
pub struct Listed {
    pub key: String,
    pub modified_at: OffsetDateTime,
}

impl Storage {
    /// All bytes of an object, if they are `size`. The caller has made sure that there is memory for
    /// as many.
    ///
    /// # Errors
    /// `NotFound`; `WrongSize`, told before anything of it is read; or no answer.
    pub async fn read(&self, key: &str, size: u64) -> Result<Bytes, Error> {
        let get = self.0.client.get_object().bucket(&self.0.bucket);
        let get = get.key(self.full_key(key)).send();
        let read = async {
            let object = get.await?;
            let found = object.content_length.and_then(|size| u64::try_from(size).ok());
            if found != Some(size) {
                return Err(Error::WrongSize(found.unwrap_or_default()));
            }
            let bytes = usize::try_from(size).map_err(|error| Error::Refused(error.to_string()))?;
            collect(object.body, self.0.buffers.take(bytes), bytes).await
        };
        self.call("get", read.boxed()).await
    }

    /// # Errors
    /// No answer.
    pub async fn put(&self, new: &NewObject<'_>, body: Bytes) -> Result<(), Error> {
        let put = self.0.client.put_object().bucket(&self.0.bucket).key(self.full_key(new.key));
        let put = put
            .content_type(new.content_type)
            .content_disposition(ATTACHMENT)
            .cache_control(IMMUTABLE)
            .body(ByteStream::from(body))
            .send();
        self.call("put", async { Ok(put.await?) }.boxed()).await?;
        Ok(())
    }

    /// Deletes objects, at most [`MOST_KEYS`]. What is not there counts as deleted.
    ///
    /// # Errors
    /// No answer, or some could not be deleted.
    pub async fn delete(&self, keys: &[String]) -> Result<(), Error> {
        if keys.is_empty() {
            return Ok(());
        }
        let refused = |error: aws_sdk_s3::error::BuildError| Error::Refused(error.to_string());
        let object = |key: &String| ObjectIdentifier::builder().key(self.full_key(key)).build();
        let objects: Result<Vec<_>, _> = keys.iter().map(object).collect();
        let delete = Delete::builder().set_objects(Some(objects.map_err(refused)?)).quiet(true);
        let delete = delete.build().map_err(refused)?;
        let delete = self.0.client.delete_objects().bucket(&self.0.bucket).delete(delete).send();
        let deleted = self.call("delete", async { Ok(delete.await?) }.boxed()).await?;
        match deleted.errors().first() {
            None => Ok(()),
            Some(error) => Err(Error::Refused(format!("{error:?}"))),
        }
    }

    /// Objects whose keys begin with `prefix`, in the order of their keys, from behind `after`.
    ///
    /// # Errors
    /// No answer.
    pub async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, Error> {
        let list = self.0.client.list_objects_v2().bucket(&self.0.bucket);
        let list = list.prefix(self.full_key(prefix));
        let list = list.set_start_after(after.map(|key| self.full_key(key))).send();
        let page = self.call("list", async { Ok(list.await?) }.boxed()).await?;
        let listed = |object: aws_sdk_s3::types::Object| {
            let seconds = object.last_modified?.secs();
            let modified_at = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
            let key = object.key?.strip_prefix(&self.0.prefix)?.to_owned();
            Some(Listed { key, modified_at })
        };
        let has_more = page.is_truncated.unwrap_or_default();
        let objects = page.contents.unwrap_or_default().into_iter().filter_map(listed).collect();
        Ok(Page { objects, has_more })
    }

    /// Gives up uploads in parts that were begun more than `age` ago: their processes died. How
    /// many there were; none where the server cannot list them.
    ///
    /// # Errors
    /// No answer.
    pub async fn abort_parts(&self, prefix: &str, age: Duration) -> Result<usize, Error> {
        let list = self.0.client.list_multipart_uploads().bucket(&self.0.bucket);
        let list = list.prefix(self.full_key(prefix));
        let uploads = match self.call("list_parts", async { Ok(list.send().await?) }.boxed()).await
        {
            Ok(page) => page.uploads.unwrap_or_default(),
            Err(Error::Unsupported) => return Ok(0),
            Err(error) => return Err(error),
        };
        let newest = (OffsetDateTime::now_utc() - age).unix_timestamp();
        let mut aborted = 0;
        for upload in uploads {
            if upload.initiated.is_none_or(|begun| begun.secs() > newest) {
                continue;
            }
            let abort = self.0.client.abort_multipart_upload().bucket(&self.0.bucket);
            let abort = abort.set_key(upload.key).set_upload_id(upload.upload_id).send();
            match self.call("abort", async { Ok(abort.await?) }.boxed()).await {
                Ok(_) => aborted += 1,
                Err(Error::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(aborted)
    }
}

async fn collect(mut body: ByteStream, mut bytes: Buffer, size: usize) -> Result<Bytes, Error> {
    let broken = |error: aws_sdk_s3::primitives::ByteStreamError| {
        Error::Unavailable(DisplayErrorContext(&error).to_string())
    };
    while let Some(part) = body.try_next().await.map_err(broken)? {
        if bytes.len() + part.len() > size {
            return Err(Error::WrongSize(bytes.len() as u64 + part.len() as u64));
        }
        bytes.extend(&part);
    }
    if bytes.len() < size {
        return Err(Error::Unavailable("the object ended early".to_owned()));
    }
    Ok(bytes.freeze())
}
