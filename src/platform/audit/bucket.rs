//! The bucket: whether this service can use it, and nobody else can.

use std::{fmt, time::Duration};

use bytes::Bytes;
use reqwest::{Client, redirect};
use url::Url;
use uuid::Uuid;

use super::{
    finding::{Rule, Verdict},
    look::within,
};
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
    let [object, list] = &seen.stranger;
    let told = format!("a stranger gets for an object {object}, for the list {list}");
    let is_given = |answer: &Answer| matches!(answer, Answer::Status(200..=299));
    let is_refused = |answer: &Answer| matches!(answer, Answer::Status(400..=499));
    let is_missing = matches!(object, Answer::Status(404));
    // It was there: who is told that it is not may look, and was not refused.
    if is_given(object) || is_given(list) || (is_missing && seen.kept.is_ok()) {
        return Verdict::Failed(told, MEND.to_owned());
    }
    // An object that could not be written is not found, which tells nothing.
    if is_missing {
        return Verdict::Skipped(told, "mend what s3.writable tells of".to_owned());
    }
    if is_refused(object) && is_refused(list) {
        return Verdict::Passed(told);
    }
    // Led elsewhere, a fault of the server, or no answer: neither given nor refused.
    let help = "ask from where clients reach SHOAL_S3_PUBLIC_ENDPOINT, or S3_ENDPOINT";
    Verdict::Skipped(told, help.to_owned())
}

impl fmt::Display for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(formatter, "{status}"),
            Self::None(why) => write!(formatter, "no answer ({why})"),
        }
    }
}

/// Puts a small object where documents are, looks at it, and takes it out again. That comes last
/// and is bounded by `SHOAL_S3_TIMEOUT_MS` alone: whatever was slow before, nothing is left there.
pub(super) async fn look(storage: &Storage, patience: Duration) -> Bucket {
    let key = format!("documents/audit-{}", Uuid::now_v7());
    let body = Bytes::from_static(b"shoal audit");
    let new = NewObject { key: &key, content_type: "text/plain" };
    let written = async {
        let put = storage.put(&new, body.clone()).await;
        put.map_err(|error| error.to_string())?;
        storage.read(&key, body.len() as u64).await.map_err(|error| error.to_string())
    };
    let written = within(patience, written).await;
    // Strangers may be kept out by a firewall that answers nothing: others must not wait for that.
    let stranger = strangers(storage, &key, patience / 4).await;
    // Also what could not be read.
    let deleted = storage.delete(std::slice::from_ref(&key)).await;
    let kept = match (written, deleted) {
        (Ok(found), Ok(())) if found == body => Ok(()),
        (Ok(_), Ok(())) => Err("what was read is not what was written".to_owned()),
        (Err(why), _) => Err(why),
        (Ok(_), Err(error)) => Err(format!("{key} was not deleted: {error}")),
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
    ask_both(object, list, limit).await
}

/// At the same time: both take no longer than one.
async fn ask_both(object: Url, list: Url, limit: Duration) -> [Answer; 2] {
    let client = Client::builder().timeout(limit).no_proxy().redirect(redirect::Policy::none());
    let Ok(client) = client.build() else {
        return [(); 2].map(|()| Answer::None("no HTTP client can be made".to_owned()));
    };
    tokio::join!(ask(&client, object), ask(&client, list)).into()
}

async fn ask(client: &Client, url: Url) -> Answer {
    match client.get(url).send().await {
        Ok(response) => Answer::Status(response.status().as_u16()),
        Err(error) if error.is_timeout() => Answer::None("in time".to_owned()),
        Err(error) => Answer::None(error.without_url().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        task::JoinSet,
    };

    use super::*;

    #[test]
    fn a_stranger_must_be_refused_both() {
        let silent = || Answer::None("no answer".to_owned());
        let status = Answer::Status;
        for (object, list, told) in [
            (status(403), status(403), "passed"),
            (status(401), status(403), "passed"),
            // Refused in other words; a list that is nowhere is not given either.
            (status(400), status(405), "passed"),
            (status(403), status(404), "passed"),
            (status(200), status(403), "failed"),
            (status(206), status(403), "failed"),
            (status(403), status(200), "failed"),
            // It was there, and a stranger may not even know whether it is.
            (status(404), status(403), "failed"),
            // What is given to anybody is told, whatever became of the other.
            (status(200), silent(), "failed"),
            (silent(), status(200), "failed"),
            (status(307), status(403), "skipped"),
            (status(403), status(503), "skipped"),
            (silent(), status(403), "skipped"),
        ] {
            let seen = Bucket { kept: Ok(()), stranger: [object, list] };
            let verdict = match private(&seen) {
                Verdict::Passed(_) => "passed",
                Verdict::Failed(..) => "failed",
                _ => "skipped",
            };
            assert_eq!(verdict, told, "{seen:?}");
        }
        let unwritten =
            Bucket { kept: Err("refused".to_owned()), stranger: [status(404), status(403)] };
        assert!(matches!(private(&unwritten), Verdict::Skipped(..)));
    }

    #[tokio::test]
    async fn strangers_do_not_wait_for_long_and_are_led_nowhere() {
        // Accepts connections, by the system's queue, and says nothing.
        let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = |listener: &TcpListener| {
            Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap()
        };
        let limit = Duration::from_millis(100);
        let answers = ask_both(url(&silent), url(&silent), limit).await;
        assert!(answers.iter().all(|answer| matches!(answer, Answer::None(_))), "{answers:?}");

        let leads = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let there = url(&leads);
        let mut server = JoinSet::new();
        server.spawn(async move {
            loop {
                let (mut stream, _) = leads.accept().await.unwrap();
                let answer = "HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\
                              connection: close\r\n\r\n";
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let answers = ask_both(there.clone(), there, Duration::from_secs(10)).await;
        assert!(answers.iter().all(|answer| matches!(answer, Answer::Status(302))), "{answers:?}");
    }
}
