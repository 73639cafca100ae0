//! A stream of events, as a browser's `EventSource` reads it.

use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::Value;
use tokio::time::timeout;

use super::{Client, HANG, Reply};

pub struct Live {
    response: Response,
    text: String,
    /// What the client would come back with.
    pub last_id: String,
}

/// One block of the stream.
#[derive(Debug)]
pub enum Block {
    /// The data of an event; its kind is what it was announced as.
    Event(Value),
    /// A comment, or only an id or a time to come back after.
    Quiet,
}

impl Live {
    /// From what comes, or from behind `last_id`.
    pub async fn open(client: &Client, last_id: Option<&str>) -> Self {
        let mut live = Self::try_open(client, last_id).await.unwrap_or_else(|reply| {
            panic!("{}: {}", reply.status, String::from_utf8_lossy(&reply.body))
        });
        // The head tells that events are heard of from here on; its block has the first id.
        assert!(matches!(live.block().await, Some(Block::Quiet)));
        live
    }

    pub async fn try_open(client: &Client, last_id: Option<&str>) -> Result<Self, Reply> {
        let mut request = client.request(Method::GET, "/v1/events/stream");
        if let Some(last_id) = last_id {
            request = request.header("last-event-id", last_id);
        }
        let request = request.timeout(Duration::from_secs(120));
        let response = request.try_clone().unwrap().send().await.unwrap();
        if response.status() != 200 {
            return Err(Reply::of(request).await);
        }
        for (name, value) in [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-store"),
            ("x-accel-buffering", "no"),
        ] {
            // nginx keeps what was meant for it.
            let is_it = response.headers().get(name).is_none_or(|found| found == value);
            assert!(is_it, "{:?}", response.headers());
        }
        let last_id = last_id.unwrap_or_default().to_owned();
        Ok(Self { response, text: String::new(), last_id })
    }

    /// The next event; `None` at the orderly end of the stream.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            match self.block().await? {
                Block::Event(event) => return Some(event),
                Block::Quiet => {}
            }
        }
    }

    /// The kinds and order ids of the next events.
    pub async fn take(&mut self, count: usize) -> Vec<(String, String)> {
        let mut taken = Vec::with_capacity(count);
        for _ in 0..count {
            let event = self.next().await.expect("an event");
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            assert_eq!(event["subject_id"], event["data"]["order_id"]);
            taken.push((text(&event["type"]), text(&event["subject_id"])));
        }
        taken
    }

    pub async fn block(&mut self) -> Option<Block> {
        let block = loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                break block;
            }
            let chunk = timeout(HANG, self.response.chunk()).await.expect("a hang").unwrap();
            let Some(chunk) = chunk else {
                assert_eq!(self.text, "", "the end of a stream is the end of a block");
                return None;
            };
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        };
        let mut data = None;
        let mut kind = "";
        for line in block.lines() {
            match line.split_once(':').unwrap() {
                ("id", id) => self.last_id = id.trim().to_owned(),
                ("event", name) => kind = name.trim(),
                ("data", text) => data = Some(serde_json::from_str::<Value>(text).unwrap()),
                ("retry", millis) => {
                    assert!((500..3_000).contains(&millis.trim().parse().unwrap()))
                }
                (name, _) => assert_eq!(name, "", "{block}"),
            }
        }
        Some(data.map_or(Block::Quiet, |data| {
            assert_eq!(data["type"], kind, "{block}");
            Block::Event(data)
        }))
    }
}
