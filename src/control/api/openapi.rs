//! The OpenAPI document, made from the list of operations. A test compares it with `openapi.json` beside this file.

use super::operation::{Document, Operation, Parameter, Schemas, of};
use super::operations::OPERATIONS;
use super::request::MAX_BODY;
use guideway_api::error::Error;
use serde_json::{Map, Value, json};

/// Returns the whole document.
pub fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.to_ascii_lowercase()] = described(operation);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Guideway director",
            "version": "1",
            "description": "Over the director's Unix socket, and over TCP with TLS or on loopback where `[api]` says so. Every change is one transaction. A \
                            request that is no HTTP is answered by an empty 400 or 431, or by nothing.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "over TCP, where `[api] token_file` is set"}},
        },
    })
}

fn described(operation: &Operation) -> Value {
    let mut parameters: Vec<Value> = operation.names().map(path_parameter).collect();
    parameters.extend(operation.query.iter().map(query_parameter));
    if operation.changes() {
        parameters.push(json!({
            "name": "If-Match", "in": "header", "required": false, "schema": {"type": "string"}, "example": "\"7\"",
            "description": "the ETag of the intent that the change is based on",
        }));
    }
    if operation.id == "events" {
        parameters.push(json!({
            "name": "Last-Event-ID", "in": "header", "required": false, "schema": {"type": "integer"},
            "description": "id of the event that was seen last",
        }));
    }
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": parameters,
        "responses": responses(operation),
    });
    if let Some(body) = operation.body {
        described["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": reference(&body)}}});
    }
    described
}

fn path_parameter(name: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})
}

fn query_parameter(parameter: &Parameter) -> Value {
    json!({
        "name": parameter.name, "in": "query", "required": parameter.required, "schema": {"type": parameter.kind},
        "description": parameter.description, "example": parameter.example,
    })
}

fn reference(document: &Document) -> Value {
    json!({"$ref": format!("#/components/schemas/{}", (document.name)())})
}

/// Returns the schema of every type that an operation takes or gives, by name.
fn schemas() -> Map<String, Value> {
    collected().into_iter().map(|(name, schema)| (name, serde_json::to_value(schema).unwrap_or_default())).collect()
}

fn collected() -> Schemas {
    let mut schemas = Schemas::new();
    let documents = OPERATIONS.iter().flat_map(|operation| operation.body.into_iter().chain([operation.answer]));
    documents.chain([of::<Error>()]).for_each(|document| (document.add_schemas)(&mut schemas));
    schemas
}

fn responses(operation: &Operation) -> Value {
    let kind = if operation.id == "events" { "text/event-stream" } else { "application/json" };
    let mut good = json!({"description": "done", "content": {kind: {"schema": reference(&operation.answer)}}});
    if operation.changes() || operation.id == "intent" {
        good["headers"] = json!({"ETag": {"description": "generation of the intent, in quotes", "schema": {"type": "string"}}});
    }
    let mut responses = Map::new();
    responses.insert("200".to_owned(), good.clone());
    if operation.changes() {
        good["description"] = json!("committed, but this director's workers do not have it yet: `not_applied_because`");
        responses.insert("202".to_owned(), good);
    }
    for (code, why) in error_responses(operation) {
        let api_error = json!({"description": why, "content": {"application/json": {"schema": reference(&of::<Error>())}}});
        responses.insert(code.to_string(), api_error);
    }
    Value::Object(responses)
}

/// Returns the status codes with which an operation may be refused, each with its reason.
fn error_responses(operation: &Operation) -> Vec<(u16, String)> {
    let limit = MAX_BODY >> 20;
    let all = [
        (400, true, "the request cannot be understood".to_owned()),
        (401, true, "over TCP: no token, or a wrong one".to_owned()),
        (403, operation.method != "GET", "over TCP: the token is read-only".to_owned()),
        (404, operation.names().next().is_some() || operation.id == "backends", "there is nothing of that name".to_owned()),
        (405, true, "the path does not know this method".to_owned()),
        (408, true, "the body did not arrive in time".to_owned()),
        (
            409,
            operation.changes() || operation.id == "transfers",
            "this director cannot do it, or not now: each reason is a problem".to_owned(),
        ),
        (412, operation.changes(), "the intent is not the one of If-Match".to_owned()),
        (413, true, format!("the body has more than {limit} MiB")),
        (415, operation.body.is_some(), "the body is not said to be application/json".to_owned()),
        (
            422,
            operation.changes() || operation.id == "reload",
            "what is wanted is not allowed: each problem has its key, its value and the limit".to_owned(),
        ),
        (429, true, "over TCP: too many wrong tokens".to_owned()),
        (503, true, "the director is starting, ending or busy, or its store is away".to_owned()),
    ];
    all.into_iter().filter(|(_, applies, _)| *applies).map(|(code, _, why)| (code, why)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_document_in_the_repository_is_the_one_that_the_code_makes() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("api/openapi.json");
        let made = format!("{:#}\n", document());
        if std::env::var_os("GUIDEWAY_REGENERATE").is_some() {
            std::fs::write(&file, &made).unwrap();
        }
        let there = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            there == made,
            "{} has drifted; make it anew with GUIDEWAY_REGENERATE=1 cargo test -p guideway-control openapi",
            file.display()
        );
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_schema_is_used() {
        let document = document();
        let text = document.to_string();
        let schemas = schemas();
        for name in schemas.keys() {
            assert!(text.contains(&format!("\"#/components/schemas/{name}\"")), "nothing uses {name}");
        }
        for (name, schema) in collected() {
            assert_eq!(serde_json::to_value(schema).unwrap(), schemas[&name], "two types have the name {name}");
        }
        for reference in text.split("\"#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(document["components"]["schemas"][reference].is_object(), "there is no {reference}");
        }
        let ids: std::collections::BTreeSet<_> = OPERATIONS.iter().map(|operation| operation.id).collect();
        assert_eq!(ids.len(), OPERATIONS.len());
    }
}
