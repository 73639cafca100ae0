//! Logs, and traces where a collector is configured.

mod json;
mod lines;

use std::collections::HashMap;

use opentelemetry::{propagation::TextMapPropagator, trace::TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use self::{
    json::Json,
    lines::{Lines, Writer},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line, for collectors.
    Json,
    /// For people.
    Text,
}

impl std::str::FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err("expected json or text"),
        }
    }
}

#[derive(Clone)]
pub struct Config {
    /// Directives as `tracing_subscriber` reads them, such as `info,shoal=debug`.
    pub filter: String,
    pub format: LogFormat,
    /// The base URL of an OTLP collector that speaks HTTP with protobuf.
    pub otlp_endpoint: Option<String>,
}

/// Flushes logs and traces when dropped.
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    _lines: Writer,
}

/// Starts logging for the whole process. To be called before the async runtime starts, since the
/// exporter's thread must not be one of its.
///
/// # Errors
/// A filter or an endpoint that cannot be parsed, or a second call.
pub fn start(config: &Config) -> anyhow::Result<Telemetry> {
    let filter = || EnvFilter::try_new(&config.filter);
    let (lines, writer) = Lines::start(std::io::stdout())?;
    let format = tracing_subscriber::fmt::layer().with_writer(lines);
    let format = match config.format {
        LogFormat::Json => format.event_format(Json).boxed(),
        LogFormat::Text => format.compact().boxed(),
    };
    // Logs name the request by themselves. So nobody wants spans unless there is a collector, and
    // none are made; that takes filters by layer.
    let events = filter()?.and(filter_fn(|metadata| metadata.is_event()));
    let mut layers = vec![format.with_filter(events).boxed()];
    let traces = config.otlp_endpoint.as_deref().map(exporter).transpose()?;
    if let Some(provider) = &traces {
        let tracer = provider.tracer(env!("CARGO_PKG_NAME"));
        let spans = tracing_opentelemetry::layer().with_tracer(tracer);
        layers.push(spans.with_filter(filter()?).boxed());
    }
    tracing_subscriber::registry().with(layers).try_init()?;
    Ok(Telemetry { traces, _lines: writer })
}

fn exporter(endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .build()?;
    let resource = Resource::builder().with_service_name(env!("CARGO_PKG_NAME")).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(traces) = &self.traces
            && let Err(error) = traces.shutdown()
        {
            tracing::warn!(%error, "the last traces were not delivered");
        }
    }
}

/// Makes `span` a child of the trace that `traceparent` names.
pub fn continue_trace(span: &Span, traceparent: Option<&str>) {
    if let Some(traceparent) = traceparent {
        let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
        // An error only says that no collector is configured.
        let _ = span.set_parent(TraceContextPropagator::new().extract(&carrier));
    }
}
