//! Which request something is done for: what is logged meanwhile says so.

use std::borrow::Cow;
use std::future::Future;
use std::sync::{Arc, OnceLock};

tokio::task_local! {
    static CURRENT: Current;
}

/// A request, as lines of the log name it.
#[derive(Debug, Default)]
pub struct Origin {
    /// `POST`.
    pub method: Cow<'static, str>,
    /// The pattern of its path: a path has tenants in it, and no end of values. Known once it has found its place.
    pub route: OnceLock<Cow<'static, str>>,
    /// The caller's, or one made for it.
    pub request_id: String,
    /// The W3C trace that it is part of.
    pub trace_id: Option<String>,
}

/// The request that something is done for; none, where it is done for nobody.
#[derive(Clone, Debug, Default)]
pub struct Current(Option<Arc<Origin>>);

impl Current {
    /// A request that has come.
    pub fn of(origin: Origin) -> Self {
        Self(Some(Arc::new(origin)))
    }

    /// That of what runs here, to be taken along to where the rest of it is done.
    pub fn get() -> Self {
        CURRENT.try_with(Clone::clone).unwrap_or_default()
    }

    /// Learns its route.
    pub fn is_for(&self, route: impl Into<Cow<'static, str>>) {
        if let Some(origin) = &self.0 {
            let _ = origin.route.set(route.into());
        }
    }

    /// Runs `work` for it.
    pub fn during<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, work)
    }

    /// Runs `work` for it.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.clone(), work)
    }

    /// Its fields, in the order in which lines have them.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().flat_map(|origin| {
            let route = origin.route.get().map(|route| &**route);
            let (method, request_id) = (Some(&*origin.method), Some(origin.request_id.as_str()));
            let fields = [
                ("method", method),
                ("route", route),
                ("requestId", request_id),
                ("traceId", origin.trace_id.as_deref()),
            ];
            fields.into_iter().filter_map(|(name, value)| Some((name, value?)))
        })
    }
}
