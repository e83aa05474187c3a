//! The table of routes: the router and its description come from the same entries.
//!
//! What a handler takes is read off its extractors, so that the description of a body
//! cannot be another than that of the type that is decoded. Names of query parameters,
//! the status of success and a line of text stand in the entry.

use axum::{
    Router,
    extract::{Path, State},
    handler::Handler,
    routing::{MethodFilter, on},
};
use http::{Method, StatusCode, Uri};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    cluster::Cluster,
    extract::{Caller, Id, Json, Params},
    server::Shared,
    trace::schema_of,
    version::ApiVersion,
};

/// Routes, and what they are.
pub(crate) struct Routes<C: Cluster> {
    router: Router<Shared<C>>,
    operations: Vec<Operation>,
}

/// One method of one path.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    /// As in the request.
    pub(crate) method: Method,
    /// With `{name}` for a segment that is given.
    pub(crate) path: &'static str,
    /// What is said of it.
    pub(crate) doc: Doc,
    /// What the handler takes.
    pub(crate) takes: Takes,
}

/// What is said of an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doc {
    /// What it does.
    pub(crate) summary: &'static str,
    /// Names of query parameters.
    pub(crate) query: &'static [&'static str],
    /// Status of success.
    pub(crate) success: StatusCode,
    /// Media type of the answer, if there is one.
    pub(crate) media_type: Option<&'static str>,
    /// Name of what JSON answers hold, in `answers.json`.
    pub(crate) answer: Option<&'static str>,
    /// Whether they hold a list of it.
    pub(crate) is_list: bool,
}

/// What a handler takes from a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Takes {
    /// Whether it reads the query.
    pub(crate) query: bool,
    /// Names of headers.
    pub(crate) headers: Vec<&'static str>,
    /// The body's schema.
    pub(crate) body: Option<Value>,
}

/// An operation that answers 200 with JSON, unless more is said.
pub(crate) const fn doc(summary: &'static str) -> Doc {
    Doc {
        summary,
        query: &[],
        success: StatusCode::OK,
        media_type: Some("application/json"),
        answer: None,
        is_list: false,
    }
}

impl Doc {
    /// Reads these query parameters.
    pub(crate) const fn query(mut self, names: &'static [&'static str]) -> Doc {
        self.query = names;
        self
    }

    /// Answers this when all is well.
    pub(crate) const fn success(mut self, status: StatusCode) -> Doc {
        self.success = status;
        self
    }

    /// Answers with what has this name in `answers.json`.
    pub(crate) const fn answers(mut self, name: &'static str) -> Doc {
        self.answer = Some(name);
        self
    }

    /// Answers with a list of it.
    pub(crate) const fn lists(mut self, name: &'static str) -> Doc {
        self.is_list = true;
        self.answers(name)
    }

    /// Answers no content.
    pub(crate) const fn empty(mut self) -> Doc {
        self.media_type = None;
        self
    }

    /// Answers something else than JSON.
    pub(crate) const fn media_type(mut self, media_type: &'static str) -> Doc {
        self.media_type = Some(media_type);
        self
    }
}

impl<C: Cluster> Routes<C> {
    pub(crate) fn new() -> Routes<C> {
        Routes {
            router: Router::new(),
            operations: Vec::new(),
        }
    }

    pub(crate) fn get<H, T>(self, path: &'static str, doc: Doc, handler: H) -> Routes<C>
    where
        H: Handler<T, Shared<C>>,
        T: Extracted + 'static,
    {
        self.on(Method::GET, MethodFilter::GET, path, doc, handler)
    }

    pub(crate) fn head<H, T>(self, path: &'static str, doc: Doc, handler: H) -> Routes<C>
    where
        H: Handler<T, Shared<C>>,
        T: Extracted + 'static,
    {
        self.on(Method::HEAD, MethodFilter::HEAD, path, doc, handler)
    }

    pub(crate) fn post<H, T>(self, path: &'static str, doc: Doc, handler: H) -> Routes<C>
    where
        H: Handler<T, Shared<C>>,
        T: Extracted + 'static,
    {
        self.on(Method::POST, MethodFilter::POST, path, doc, handler)
    }

    pub(crate) fn delete<H, T>(self, path: &'static str, doc: Doc, handler: H) -> Routes<C>
    where
        H: Handler<T, Shared<C>>,
        T: Extracted + 'static,
    {
        self.on(Method::DELETE, MethodFilter::DELETE, path, doc, handler)
    }

    fn on<H, T>(
        mut self,
        method: Method,
        filter: MethodFilter,
        path: &'static str,
        doc: Doc,
        handler: H,
    ) -> Routes<C>
    where
        H: Handler<T, Shared<C>>,
        T: Extracted + 'static,
    {
        let mut takes = Takes::default();
        T::describe(&mut takes);
        self.operations.push(Operation {
            method,
            path,
            doc,
            takes,
        });
        self.router = self.router.route(path, on(filter, handler));
        self
    }

    pub(crate) fn merge(mut self, other: Routes<C>) -> Routes<C> {
        self.operations.extend(other.operations);
        self.router = self.router.merge(other.router);
        self
    }

    /// The router, and what it routes.
    pub(crate) fn into_parts(self) -> (Router<Shared<C>>, Vec<Operation>) {
        (self.router, self.operations)
    }
}

/// What handlers take: extractors, and tuples of them as handlers have them.
pub(crate) trait Extracted {
    /// Notes what it takes.
    fn describe(_: &mut Takes) {}
}

impl<S> Extracted for State<S> {}
impl<T> Extracted for Path<T> {}
impl Extracted for ApiVersion {}
impl Extracted for Caller {}
impl Extracted for Id {}
impl Extracted for Uri {}

impl Extracted for Params {
    fn describe(takes: &mut Takes) {
        takes.query = true;
    }
}

impl<T: DeserializeOwned> Extracted for Json<T> {
    fn describe(takes: &mut Takes) {
        takes.body = Some(schema_of::<T>());
    }
}

impl Extracted for ((),) {}

macro_rules! extracted {
    ($($extractor:ident)*) => {
        impl<Via, $($extractor: Extracted),*> Extracted for (Via, $($extractor),*) {
            fn describe(takes: &mut Takes) {
                $($extractor::describe(takes);)*
            }
        }
    };
}

extracted!(A);
extracted!(A B);
extracted!(A B D);
extracted!(A B D E);
extracted!(A B D E F);
extracted!(A B D E F G);
