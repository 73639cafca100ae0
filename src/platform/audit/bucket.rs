//! The bucket: whether this service can use it, and nobody else can.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Client, StatusCode};
use url::Url;
use uuid::Uuid;

use super::finding::{Rule, Verdict, hold};
use crate::platform::storage::{NewObject, Storage};

/// Long enough to be signed; the signature is not sent.
const LIFETIME: Duration = Duration::from_secs(60);

/// What became of an object that was put into it, and of strangers who asked for it.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    /// Written, read again and deleted; else what went wrong.
    pub(super) kept: Result<(), String>,
    /// What a stranger is told who asks for the object, and for a list of all.
    pub(super) stranger: [Answer; 2],
}

#[derive(Debug, Clone)]
pub(super) enum Answer {
    Status(u16),
    None(String),
}

pub(super) const RULES: [Rule<Bucket>; 2] = [
    Rule {
        id: "s3.writable",
        why: "what cannot be written, read or deleted makes every upload fail, or stay for ever",
        judge: |seen| match &seen.kept {
            Ok(()) => Verdict::Passed("an object was written, read and deleted".to_owned()),
            Err(why) => Verdict::Failed(
                why.clone(),
                "give its key GetObject, PutObject, DeleteObject and ListBucket on the bucket"
                    .to_owned(),
            ),
        },
    },
    Rule {
        id: "s3.private",
        why: "documents are for their owners: whoever has an address without a signature must be \
              refused",
        judge: private,
    },
];

fn private(seen: &Bucket) -> Verdict {
    const MEND: &str = "take public access from the bucket; a CDN needs `pictures/` alone";
    let mut told = Vec::new();
    for (what, answer) in ["an object", "the list"].iter().zip(&seen.stranger) {
        match answer {
            Answer::Status(status) => told.push(format!("{what} {status}")),
            Answer::None(why) => {
                let help = "clients reach it at SHOAL_S3_PUBLIC_ENDPOINT, or S3_ENDPOINT";
                return Verdict::Skipped(why.clone(), help.to_owned());
            }
        }
    }
    let is_refused = |answer: &Answer| matches!(answer, Answer::Status(401 | 403));
    let told = format!("a stranger gets for {}", told.join(", for "));
    // An object that could not be written is not found, which tells nothing.
    if seen.kept.is_err() && matches!(seen.stranger[0], Answer::Status(404)) {
        let help = "mend what s3.writable tells of".to_owned();
        return Verdict::Skipped(told, help);
    }
    hold(seen.stranger.iter().all(is_refused), told, MEND)
}

/// Puts a small object where documents are, looks at it, and takes it out again.
pub(super) async fn look(storage: &Storage, limit: Duration) -> Bucket {
    let key = format!("documents/audit-{}", Uuid::now_v7());
    let body = Bytes::from_static(b"shoal audit");
    let new = NewObject { key: &key, content_type: "text/plain" };
    let written = async {
        storage.put(&new, body.clone()).await?;
        storage.read(&key, body.len() as u64).await
    };
    let written = written.await;
    let stranger = strangers(storage, &key, limit).await;
    // Also what could not be read.
    let deleted = storage.delete(std::slice::from_ref(&key)).await;
    let kept = match (written, deleted) {
        (Ok(found), Ok(())) if found == body => Ok(()),
        (Ok(_), Ok(())) => Err("what was read is not what was written".to_owned()),
        (Err(error), _) | (Ok(_), Err(error)) => Err(error.to_string()),
    };
    Bucket { kept, stranger }
}

async fn strangers(storage: &Storage, key: &str, limit: Duration) -> [Answer; 2] {
    let none = |why: String| [Answer::None(why.clone()), Answer::None(why)];
    let signed = match storage.presign_get(key, "audit", LIFETIME).await {
        Ok(signed) => signed,
        Err(error) => return none(error.to_string()),
    };
    let Ok(mut object) = Url::parse(&signed.url) else {
        return none("the address of an object is none".to_owned());
    };
    object.set_query(None);
    let Some(bucket) = object.path().strip_suffix(&storage.path_of(key)).map(str::to_owned) else {
        return none("the address of an object does not end in its key".to_owned());
    };
    let mut list = object.clone();
    list.set_path(&bucket);
    list.set_query(Some("list-type=2"));
    let client = Client::builder().timeout(limit).no_proxy().build();
    let Ok(client) = client else {
        return none("no HTTP client can be made".to_owned());
    };
    [ask(&client, object).await, ask(&client, list).await]
}

async fn ask(client: &Client, url: Url) -> Answer {
    match client.get(url).send().await.map(|response| response.status()) {
        Ok(status) => Answer::Status(StatusCode::as_u16(&status)),
        Err(error) => Answer::None(error.without_url().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_must_be_refused_both() {
        let judge = |object: u16, list: u16, kept: Result<(), String>| {
            let stranger = [Answer::Status(object), Answer::Status(list)];
            private(&Bucket { kept, stranger })
        };
        for (object, list, is_private) in [
            (403, 403, true),
            (401, 403, true),
            (200, 403, false),
            (403, 200, false),
            // It was there, and a stranger may not even know whether it is.
            (404, 403, false),
        ] {
            let verdict = judge(object, list, Ok(()));
            assert_eq!(matches!(verdict, Verdict::Passed(_)), is_private, "{object} {list}");
        }
        let unwritten = judge(404, 403, Err("refused".to_owned()));
        assert!(matches!(unwritten, Verdict::Skipped(..)));
    }
}
