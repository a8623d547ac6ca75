//! The routes, made from the list of operations.

use super::error::{ApiError, quote};
use super::openapi;
use super::operations::OPERATIONS;
use super::read::OpenApi;
use super::state::Api;
use axum::http::{Method, StatusCode, Uri};
use axum::{Extension, Router};
use std::sync::Arc;

/// Returns all routes. Each handler gets its operation as an extension, and checks the request with it.
pub fn router(api: Arc<Api>) -> Router {
    let mut router = Router::new();
    for operation in OPERATIONS {
        router = router.route(operation.path, (operation.route)().route_layer(Extension(operation)));
    }
    let document = Extension(OpenApi(Arc::new(openapi::document())));
    router.method_not_allowed_fallback(wrong_method).fallback(unknown).layer(document).with_state(api)
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let error = format!("{method} is nothing that {} answers; /v1/openapi.json says what it does", quote(uri.path()));
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, error)
}

async fn unknown(uri: Uri) -> ApiError {
    let error = format!("there is no resource {}; /v1/openapi.json lists all", quote(uri.path()));
    ApiError::new(StatusCode::NOT_FOUND, error)
}
