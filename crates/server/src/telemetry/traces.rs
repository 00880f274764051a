//! Traces, where they are asked for: each try of an effect is a span that is sent to a collector of OpenTelemetry (OTLP over HTTP,
//! protobuf). All spans of a release are one trace, whichever server performed them and however many days lie between: the trace's
//! name is made of the pipeline's and the release's.
//!
//! What must hold: a collector that is slow or gone holds nothing up and costs bounded memory (the SDK's batch, 2,048 spans; more
//! are dropped); what is told to a collector is in no span of its own.

use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use sha2::{Digest, Sha256};
use std::time::Duration;
use tidegate_core::ids::{PipelineId, ReleaseNo};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

/// Limit of one call of the collector.
const CALL_MAX: Duration = Duration::from_secs(10);
/// How long the end of a server waits until the last spans are told.
const END_MAX: Duration = Duration::from_secs(2);

/// Tells a collector of spans until it is dropped.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Begins to tell the collector at this address, such as `http://127.0.0.1:4318/v1/traces`, in tasks of the runtime that
    /// it is called in. The layer is to be given to the subscriber.
    ///
    /// # Errors
    /// If the address is none.
    pub fn begin<S>(collector: &str) -> Result<(Traces, impl Layer<S>), ExporterBuildError>
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    {
        let client = tidegate_workers::https::client()
            .timeout(CALL_MAX)
            .build()
            .map_err(|error| ExporterBuildError::InternalFailure(tidegate_core::causes(&error)))?;
        let client = Client { client, runtime: tokio::runtime::Handle::current() };
        let exporter =
            SpanExporter::builder().with_http().with_http_client(client).with_endpoint(collector).build()?;
        let resource = Resource::builder()
            .with_service_name("tidegate")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("tidegate"));
        // What the libraries below tell is nobody's effect, and telling a collector is not to be told to it.
        let ours = filter_fn(|metadata| metadata.target().starts_with("tidegate"));
        Ok((Traces(provider), layer.with_filter(ours)))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        // A collector that is gone is no reason to wait for long.
        let _ = self.0.shutdown_with_timeout(END_MAX);
    }
}

/// Calls the collector. The SDK asks for it on a thread of its own, where there is no runtime.
#[derive(Debug)]
struct Client {
    client: reqwest::Client,
    runtime: tokio::runtime::Handle,
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let called = self.runtime.spawn(async move {
            let answer = client.execute(request.try_into()?).await?;
            let mut response = Response::builder().status(answer.status());
            for (name, value) in answer.headers() {
                response = response.header(name, value);
            }
            Ok::<_, HttpError>(response.body(answer.bytes().await?)?)
        });
        called.await?
    }
}

/// Puts a span into its release's trace. Nothing happens where no traces are asked for.
pub(crate) fn belongs(span: &tracing::Span, pipeline: &PipelineId, release: ReleaseNo) {
    let digest = Sha256::digest(format!("{pipeline}/{release}"));
    let (mut trace, mut root) = ([0; 16], [0; 8]);
    trace.copy_from_slice(&digest[..16]);
    root.copy_from_slice(&digest[16..24]);
    let of_release = SpanContext::new(
        TraceId::from_bytes(trace),
        SpanId::from_bytes(root),
        TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    );
    // Fails where there is no such layer, which is where nobody asked.
    let _ = span.set_parent(Context::new().with_remote_span_context(of_release));
}
