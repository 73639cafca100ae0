//! What a client has seen, as it says in `Last-Event-ID`.

use std::{collections::VecDeque, fmt::Write, time::Duration};

use http::HeaderMap;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::platform::{events::Event, http::error::ApiError};

/// Events may be passed on in another order than they happened in, but not by more than this: it
/// covers the longest transaction, and the time until a gap is noticed.
pub(super) const DISORDER: Duration = Duration::from_secs(10);

/// Ids that an `id:` line has, at most: 16 fit well into a header.
const NAMED: usize = 16;

/// Ids that a stream remembers having sent.
const REMEMBERED: usize = 64;

/// The ids of the newest events, the last one first: a bare event id, mostly. The others are
/// those that happened about as late, which would else be sent again.
#[derive(Debug, Clone, Default)]
pub struct Checkpoint {
    seen: VecDeque<(Uuid, OffsetDateTime)>,
}

impl Checkpoint {
    /// `None` without the header.
    ///
    /// # Errors
    /// 400 for one that this API did not give out.
    pub fn read(headers: &HeaderMap) -> Result<Option<Vec<Uuid>>, ApiError> {
        let Some(value) = headers.get("last-event-id") else { return Ok(None) };
        let text = value.to_str().unwrap_or("?");
        if text.is_empty() {
            return Ok(None);
        }
        let ids: Result<Vec<Uuid>, _> = text.split(',').map(|id| id.trim().parse()).collect();
        ids.ok().filter(|ids| ids.len() <= NAMED).map(Some).ok_or_else(|| {
            ApiError::bad_request(
                "invalid_last_event_id",
                "`Last-Event-ID` is not an id of this stream; leave it out to begin now.",
            )
        })
    }

    /// As the client says.
    pub fn of(ids: &[Uuid], at: OffsetDateTime) -> Self {
        Self { seen: ids.iter().rev().map(|id| (*id, at)).collect() }
    }

    /// `false` if it was seen already.
    pub(super) fn note(&mut self, event: &Event) -> bool {
        if self.seen.iter().any(|(id, _)| *id == event.id) {
            return false;
        }
        if self.seen.len() == REMEMBERED {
            self.seen.pop_front();
        }
        self.seen.push_back((event.id, event.created_at));
        true
    }

    /// Writes the value of an `id:` line.
    pub(super) fn write(&self, text: &mut String) {
        let mut newest = self.seen.iter().rev();
        let Some((last, at)) = newest.next() else { return };
        let _ = write!(text, "{last}");
        let near = newest.filter(|(_, other)| *other + 2 * DISORDER > *at).take(NAMED - 1);
        for (id, _) in near {
            let _ = write!(text, ",{id}");
        }
    }
}

/// The time that an id begins with: that of a UUIDv7.
pub fn time_of(id: Uuid) -> OffsetDateTime {
    let millis = (id.as_u128() >> 80) as i128;
    OffsetDateTime::from_unix_timestamp_nanos(millis * 1_000_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: Uuid, second: i64) -> Event {
        Event {
            id,
            kind: "order.paid".to_owned(),
            subject_id: Uuid::nil(),
            sequence: 1,
            customer_id: None,
            data: serde_json::Value::Null,
            request_id: None,
            traceparent: None,
            created_at: OffsetDateTime::UNIX_EPOCH + Duration::from_secs(second as u64),
        }
    }

    fn written(checkpoint: &Checkpoint) -> String {
        let mut text = String::new();
        checkpoint.write(&mut text);
        text
    }

    #[test]
    fn names_what_would_be_sent_again() {
        let ids: Vec<Uuid> = (0..3).map(|_| Uuid::now_v7()).collect();
        let mut checkpoint = Checkpoint::default();
        assert_eq!(written(&checkpoint), "");
        assert!(checkpoint.note(&event(ids[0], 0)));
        assert!(!checkpoint.note(&event(ids[0], 0)), "the same");
        assert!(checkpoint.note(&event(ids[1], 100)));
        assert_eq!(written(&checkpoint), ids[1].to_string());
        assert!(checkpoint.note(&event(ids[2], 105)));
        let both = format!("{},{}", ids[2], ids[1]);
        assert_eq!(written(&checkpoint), both);

        let mut headers = HeaderMap::new();
        headers.insert("last-event-id", both.parse().unwrap());
        let read = Checkpoint::read(&headers).unwrap().unwrap();
        assert_eq!(read, [ids[2], ids[1]]);
        let mut again = Checkpoint::of(&read, OffsetDateTime::UNIX_EPOCH);
        assert!(!again.note(&event(ids[2], 105)) && !again.note(&event(ids[1], 100)));
        headers.insert("last-event-id", "x".parse().unwrap());
        assert!(Checkpoint::read(&headers).is_err());
    }

    #[test]
    fn an_id_begins_with_its_time() {
        let age = OffsetDateTime::now_utc() - time_of(Uuid::now_v7());
        assert!(age.abs() < Duration::from_secs(60));
    }
}
