//! Lets requests in, or tells them at once to come back: 503 `overloaded` before anything was
//! read, asked or counted on their behalf.
//!
//! A layer by hand rather than a function: it is in the way of every request, and this one
//! allocates nothing. Health, metrics and documentation are not behind it.

mod gauges;
mod permit;

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use axum::{
    extract::{MatchedPath, Request},
    response::{IntoResponse, Response},
};
use http::Method;
use http_body::Body as _;
use pin_project_lite::pin_project;
use prometheus::IntCounter;
use tower::{Layer, Service};

pub(super) use self::permit::ClientWait;
use self::{gauges::Gauges, permit::Permit};
use super::error::ApiError;
use crate::platform::{
    concurrency::{Bounds, Limiter, Priority},
    metrics::Metrics,
};

/// Which priority a request has, by its method and the template of its route.
pub type Classify = fn(&Method, &str) -> Priority;

/// The layer. Cheap to clone.
#[derive(Clone)]
pub struct Admission(Arc<Inner>);

struct Inner {
    limiter: Arc<Limiter>,
    classify: Classify,
    /// The index of each route in the limiter: two for a template, since reading something and
    /// changing it take different times.
    routes: HashMap<String, usize>,
    /// By priority, in the order of [`Priority::ALL`].
    shed: [IntCounter; 3],
    epoch: Instant,
}

impl Admission {
    /// `routes` are the templates of all routes behind the layer; any other passes uncounted.
    ///
    /// # Errors
    /// A metric is registered twice.
    pub fn new(
        bounds: Bounds,
        classify: Classify,
        routes: impl IntoIterator<Item = String>,
        metrics: &Metrics,
    ) -> prometheus::Result<Self> {
        let routes: HashMap<String, usize> =
            routes.into_iter().enumerate().map(|(index, route)| (route, 2 * index)).collect();
        let limiter = Arc::new(Limiter::new(bounds, 2 * routes.len()));
        Gauges::register(limiter.clone(), metrics)?;
        let help = "Requests that were refused because too many were in progress.";
        let shed = metrics.counter_vec("shed_requests_total", help, &["priority"])?;
        let shed = Priority::ALL.map(|priority| shed.with_label_values(&[priority.name()]));
        Ok(Self(Arc::new(Inner { limiter, classify, routes, shed, epoch: Instant::now() })))
    }
}

impl Inner {
    /// Microseconds, as the limiter counts time.
    fn now(&self) -> u64 {
        self.epoch.elapsed().as_micros() as u64
    }

    /// A permit for a request that is to be counted.
    fn admit(self: &Arc<Self>, request: &mut Request) -> Result<Option<Permit>, ApiError> {
        let Some(route) = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str) else {
            return Ok(None);
        };
        let Some(index) = self.routes.get(route) else {
            return Ok(None);
        };
        let method = request.method();
        let priority = (self.classify)(method, route);
        let index = index + usize::from(!method.is_safe());
        if !self.limiter.enter(index, priority) {
            self.shed[priority as usize].inc();
            return Err(ApiError::overloaded("Too many requests at once; try again shortly."));
        }
        let mut permit = Permit::new(self.clone(), index, priority);
        if !request.body().is_end_stream() {
            request.extensions_mut().insert(permit.wait_for_client());
        }
        Ok(Some(permit))
    }
}

impl<S> Layer<S> for Admission {
    type Service = Admitted<S>;

    fn layer(&self, inner: S) -> Admitted<S> {
        Admitted { admission: self.0.clone(), inner }
    }
}

/// What is behind the layer.
#[derive(Clone)]
pub struct Admitted<S> {
    admission: Arc<Inner>,
    inner: S,
}

impl<S, E> Service<Request> for Admitted<S>
where
    S: Service<Request, Response = Response, Error = E>,
{
    type Response = Response;
    type Error = E;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), E>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        match self.admission.admit(&mut request) {
            Ok(permit) => Answer::Coming { work: self.inner.call(request), permit },
            Err(refusal) => Answer::Refused { refusal: Some(refusal) },
        }
    }
}

pin_project! {
    /// The answer to a request: one that is worked on, or the refusal.
    #[project = AnswerProjection]
    pub enum Answer<F> {
        Coming {
            // Dropped before the permit that it may have lent.
            #[pin]
            work: F,
            permit: Option<Permit>,
        },
        Refused { refusal: Option<ApiError> },
    }
}

impl<F, E> Future for Answer<F>
where
    F: Future<Output = Result<Response, E>>,
{
    type Output = Result<Response, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            AnswerProjection::Coming { work, permit } => {
                let answer = ready!(work.poll(context));
                if let (Some(permit), Ok(response)) = (permit.take(), &answer) {
                    permit.answered(response.status());
                }
                Poll::Ready(answer)
            }
            AnswerProjection::Refused { refusal } => {
                let refusal = refusal.take().map(IntoResponse::into_response);
                Poll::Ready(Ok(refusal.unwrap_or_default()))
            }
        }
    }
}
