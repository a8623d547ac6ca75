//! The description of an operation.

use super::state::Api;
use axum::routing::MethodRouter;
use std::borrow::Cow;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

/// An operation of the interface.
pub struct Operation {
    /// `GET`, `PUT`, …
    pub method: &'static str,
    /// Its path, as OpenAPI and axum write it: `/v1/pools/{pool}`.
    pub path: &'static str,
    /// Its name in the document.
    pub id: &'static str,
    /// Its effect, in a sentence.
    pub summary: &'static str,
    /// Its query parameters.
    pub query: &'static [Parameter],
    /// The type of its body, if it takes one.
    pub body: Option<Document>,
    /// The type of its answer.
    pub answer: Document,
    /// Its handler.
    pub route: fn() -> MethodRouter<Arc<Api>>,
}

/// A type of bodies or answers.
#[derive(Clone, Copy)]
pub struct Document {
    /// Its name in the OpenAPI document.
    pub name: fn() -> Cow<'static, str>,
    /// Adds its schema, and those that it refers to.
    pub add_schemas: fn(&mut Schemas),
}

/// Schemas by name.
pub type Schemas = Vec<(String, RefOr<Schema>)>;

/// Describes the type `T`.
pub const fn of<T: ToSchema>() -> Document {
    fn add_schemas<T: ToSchema>(schemas: &mut Schemas) {
        schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(schemas);
    }
    Document { name: T::name, add_schemas: add_schemas::<T> }
}

/// A parameter of a query.
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Its effect and its form.
    pub description: &'static str,
    /// Whether it is required.
    pub required: bool,
    /// Its JSON type.
    pub kind: &'static str,
    /// A valid value.
    pub example: &'static str,
    /// Checks a value; an `Err` says what is wrong with it.
    pub check: fn(&str) -> Result<(), String>,
}

impl std::fmt::Debug for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

impl Operation {
    /// Returns whether it changes the intent.
    pub fn changes(&self) -> bool {
        self.method != "GET" && self.id != "reload"
    }

    /// Returns the names of the parameters in the path.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }
}
