//! Events as JSON objects, one a line.
//!
//! The id of the request comes from its context. Were it in a span instead, as is usual, every
//! request would pay for a span of which most are never logged from.

use std::{
    cell::RefCell,
    fmt::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use time::OffsetDateTime;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::platform::context::Context;

pub(super) struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        writer.write_str("{\"timestamp\":\"")?;
        write_time(&mut writer, SystemTime::now())?;
        writer.write_str("\",\"level\":\"")?;
        writer.write_str(metadata.level().as_str())?;
        writer.write_str("\",\"target\":")?;
        write_text(&mut writer, metadata.target())?;
        if let Some(context) = Context::current() {
            writer.write_str(",\"request_id\":")?;
            write_text(&mut writer, &context.request_id)?;
        }
        let mut fields = Fields { writer: &mut writer, result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        writer.write_str("}\n")
    }
}

/// RFC 3339 in UTC, to the microsecond. All but the latter is written once a second.
fn write_time(writer: &mut impl fmt::Write, now: SystemTime) -> fmt::Result {
    thread_local! {
        static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != since_epoch.as_secs() {
            *second = since_epoch.as_secs();
            *text = format_second(now)?;
        }
        writer.write_str(text)
    })?;
    write!(writer, ".{:06}Z", since_epoch.subsec_micros())
}

fn format_second(now: SystemTime) -> Result<String, fmt::Error> {
    let now = OffsetDateTime::from(now);
    let (year, month, day) = now.to_calendar_date();
    let (hour, minute, second) = now.to_hms();
    let month = u8::from(month);
    let mut text = String::new();
    write!(text, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
    Ok(text)
}

fn write_text(writer: &mut impl fmt::Write, text: &str) -> fmt::Result {
    let is_plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    if text.bytes().all(is_plain) {
        writer.write_char('"')?;
        writer.write_str(text)?;
        return writer.write_char('"');
    }
    writer.write_str(&serde_json::to_string(text).map_err(|_| fmt::Error)?)
}

fn write_name(writer: &mut impl fmt::Write, field: &Field) -> fmt::Result {
    writer.write_str(",\"")?;
    writer.write_str(field.name())?;
    writer.write_str("\":")
}

struct Fields<'w, W> {
    writer: &'w mut W,
    result: fmt::Result,
}

impl<W: fmt::Write> Fields<'_, W> {
    fn field(&mut self, field: &Field, value: impl FnOnce(&mut W) -> fmt::Result) {
        if self.result.is_ok() {
            self.result = write_name(self.writer, field).and_then(|()| value(self.writer));
        }
    }
}

impl<W: fmt::Write> Visit for Fields<'_, W> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, |writer| write_text(writer, value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, |writer| write!(writer, "{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, |writer| write!(writer, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, |writer| write!(writer, "{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field, |writer| {
            // JSON knows neither infinity nor NaN.
            if value.is_finite() { write!(writer, "{value}") } else { writer.write_str("null") }
        });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.field(field, |writer| write_text(writer, &format!("{value:?}")));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_moment_has_its_own_time() {
        let text = |micros| {
            let mut text = String::new();
            write_time(&mut text, UNIX_EPOCH + Duration::from_micros(micros)).unwrap();
            text
        };
        assert_eq!(text(1_700_000_000_000_042), "2023-11-14T22:13:20.000042Z");
        assert_eq!(text(1_700_000_000_999_999), "2023-11-14T22:13:20.999999Z");
        assert_eq!(text(1_700_000_001_000_000), "2023-11-14T22:13:21.000000Z");
        assert_eq!(text(0), "1970-01-01T00:00:00.000000Z");
    }
}
