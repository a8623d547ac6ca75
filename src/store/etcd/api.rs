//! Requests and responses of etcd's JSON gateway: keys and values in base64, 64-bit numbers as strings, zeros omitted (etcd 3.4 and later).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// A key with its value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct KeyValue {
    /// UTF-8, as all our keys are. Invalid bytes are replaced, so such a key is never one of ours.
    #[serde(deserialize_with = "key")]
    pub(super) key: String,
    #[serde(default, deserialize_with = "bytes")]
    pub(super) value: Vec<u8>,
    #[serde(default, deserialize_with = "number")]
    pub(super) create_revision: u64,
    #[serde(default, deserialize_with = "number")]
    pub(super) mod_revision: u64,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Header {
    #[serde(default, deserialize_with = "number")]
    pub(super) revision: u64,
}

/// The response to [`range`].
#[derive(Debug, Default, Deserialize)]
pub(super) struct Range {
    #[serde(default)]
    pub(super) header: Header,
    #[serde(default)]
    pub(super) kvs: Vec<KeyValue>,
    /// How many keys there are, also beyond a limit.
    #[serde(default, deserialize_with = "number")]
    pub(super) count: u64,
}

/// The response to [`txn`].
#[derive(Debug, Default, Deserialize)]
pub(super) struct Txn {
    #[serde(default)]
    pub(super) header: Header,
    #[serde(default)]
    pub(super) succeeded: bool,
    #[serde(default)]
    responses: Vec<OpResponse>,
}

#[derive(Debug, Default, Deserialize)]
struct OpResponse {
    response_range: Option<Range>,
}

impl Txn {
    /// Returns the results of the ranges in the branch that was taken.
    pub(super) fn found(&self) -> impl Iterator<Item = &KeyValue> {
        self.responses.iter().filter_map(|response| response.response_range.as_ref()).flat_map(|range| &range.kvs)
    }
}

/// The response to `lease/grant` and `lease/keepalive`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Lease {
    #[serde(default, rename = "ID", deserialize_with = "number")]
    pub(super) id: u64,
    /// Remaining seconds; 0 when the lease is gone.
    #[serde(default, rename = "TTL", deserialize_with = "number")]
    pub(super) ttl: u64,
}

/// One message of a stream.
#[derive(Debug, Deserialize)]
pub(super) struct Message<T> {
    pub(super) result: Option<T>,
    pub(super) error: Option<RpcStatus>,
}

/// An error of etcd.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct RpcStatus {
    /// A gRPC code; 0 within a stream.
    #[serde(default)]
    pub(super) code: u32,
    #[serde(default)]
    pub(super) message: String,
}

/// A message of a watch.
#[derive(Debug, Default, Deserialize)]
pub(super) struct WatchResponse {
    #[serde(default)]
    pub(super) canceled: bool,
    #[serde(default)]
    pub(super) cancel_reason: String,
    /// Not 0: the requested revision is older than this one and was compacted.
    #[serde(default, deserialize_with = "number")]
    pub(super) compact_revision: u64,
    #[serde(default)]
    pub(super) events: Vec<Event>,
}

/// One change.
#[derive(Debug, Deserialize)]
pub(super) struct Event {
    /// Absent: `PUT`.
    #[serde(default, rename = "type")]
    kind: String,
    pub(super) kv: KeyValue,
}

impl Event {
    pub(super) fn is_delete(&self) -> bool {
        self.kind == "DELETE"
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Token {
    pub(super) token: String,
}

/// Reads all keys from `first` up to, excluding, `end`.
pub(super) fn range(first: &str, end: &str) -> Value {
    json!({"key": encoded(first), "range_end": encoded(end)})
}

/// Reads the keys alone of a range, in order and at most `limit`, and how many there are.
pub(super) fn keys(first: &str, end: &str, limit: usize) -> Value {
    json!({"key": encoded(first), "range_end": encoded(end), "keys_only": true, "limit": limit.to_string()})
}

/// Reads the last keys of a range, at most `limit`, the last one first.
pub(super) fn last(first: &str, end: &str, limit: usize) -> Value {
    json!({"key": encoded(first), "range_end": encoded(end), "sort_order": "DESCEND", "sort_target": "KEY", "limit": limit.to_string()})
}

/// Reads one key.
pub(super) fn get(key: &str) -> Value {
    json!({"key": encoded(key)})
}

/// Watches all keys of a range from a revision on.
pub(super) fn watch(first: &str, end: &str, revision: u64) -> Value {
    json!({"create_request": {"key": encoded(first), "range_end": encoded(end), "start_revision": revision.to_string()}})
}

/// Executes `success` if all of `compare` hold, otherwise `failure`.
pub(super) fn txn(compare: &[Value], success: &[Value], failure: &[Value]) -> Value {
    json!({"compare": compare, "success": success, "failure": failure})
}

/// Compares: the key was last written at `revision`; 0: it does not exist.
pub(super) fn mod_revision_is(key: &str, revision: u64) -> Value {
    json!({"key": encoded(key), "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string()})
}

/// Compares: the key was created at `revision`; 0: it does not exist.
pub(super) fn create_revision_is(key: &str, revision: u64) -> Value {
    json!({"key": encoded(key), "target": "CREATE", "result": "EQUAL", "create_revision": revision.to_string()})
}

/// Compares: no key of the range was written after `revision`.
pub(super) fn unmodified_since(first: &str, end: &str, revision: u64) -> Value {
    let next = revision.saturating_add(1).to_string();
    json!({"key": encoded(first), "range_end": encoded(end), "target": "MOD", "result": "LESS", "mod_revision": next})
}

/// Writes a key; with a lease other than 0 the key expires with the lease.
pub(super) fn put(key: &str, value: &[u8], lease: u64) -> Value {
    json!({"request_put": {"key": encoded(key), "value": STANDARD.encode(value), "lease": lease.to_string()}})
}

/// Removes a key.
pub(super) fn delete(key: &str) -> Value {
    json!({"request_delete_range": get(key)})
}

/// Removes the keys from `first` up to, excluding, `end`.
pub(super) fn delete_range(first: &str, end: &str) -> Value {
    json!({"request_delete_range": range(first, end)})
}

/// Reads a key within a [`txn`].
pub(super) fn read(key: &str) -> Value {
    json!({"request_range": get(key)})
}

/// Returns the first key after all keys with `prefix`, whose last byte is ASCII.
pub(super) fn prefix_end(prefix: &str) -> String {
    let mut end = prefix.to_owned();
    if let Some(last) = end.pop() {
        end.push(char::from_u32(u32::from(last) + 1).unwrap_or(char::MAX));
    }
    end
}

fn encoded(key: &str) -> String {
    STANDARD.encode(key)
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    STANDARD.decode(text).map_err(serde::de::Error::custom)
}

fn key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    bytes(deserializer).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Plain(i64),
        Text(String),
    }
    let number = match Number::deserialize(deserializer)? {
        Number::Plain(number) => number,
        Number::Text(text) => text.parse().map_err(serde::de::Error::custom)?,
    };
    // Revisions and leases count from 1; an expired TTL is negative.
    Ok(u64::try_from(number).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_of_etcd_3_4_are_parsed() {
        let text = r#"{"header":{"cluster_id":"14841639068965178418","revision":"3","raft_term":"2"},
            "kvs":[{"key":"L2cvYQ==","create_revision":"2","mod_revision":"3","version":"1","value":"aGk="}],"count":"1"}"#;
        let range: Range = serde_json::from_str(text).unwrap();
        let found = KeyValue { key: "/g/a".to_owned(), value: b"hi".to_vec(), create_revision: 2, mod_revision: 3 };
        assert_eq!((range.header.revision, range.kvs), (3, vec![found.clone()]));
        let text = format!(
            r#"{{"header":{{"revision":"4"}},"succeeded":true,"responses":[{{"response_put":{{}}}},{{"response_range":{text}}}]}}"#
        );
        let txn: Txn = serde_json::from_str(&text).unwrap();
        assert_eq!((txn.succeeded, txn.header.revision, txn.found().collect::<Vec<_>>()), (true, 4, vec![&found]));
        let text = r#"{"result":{"events":[{"kv":{"key":"L2cvYQ=="}},{"type":"DELETE","kv":{"key":"L2cvYg==","mod_revision":"9"}}]}}"#;
        let response = serde_json::from_str::<Message<WatchResponse>>(text).unwrap().result.unwrap();
        assert_eq!(response.events.iter().map(Event::is_delete).collect::<Vec<_>>(), [false, true]);
        let text = r#"{"result":{"header":{"raft_term":"2"},"canceled":true,"compact_revision":"3"}}"#;
        let response = serde_json::from_str::<Message<WatchResponse>>(text).unwrap().result.unwrap();
        assert_eq!((response.canceled, response.compact_revision), (true, 3));
        let lease: Lease = serde_json::from_str(r#"{"ID":"7587899043633821449","TTL":"-1"}"#).unwrap();
        assert_eq!((lease.id, lease.ttl), (7_587_899_043_633_821_449, 0));
        let rpc_status: RpcStatus = serde_json::from_str(r#"{"error":"e","message":"etcdserver: request is too large","code":3}"#).unwrap();
        assert_eq!((rpc_status.code, rpc_status.message.as_str()), (3, "etcdserver: request is too large"));
        for bad in [r#"{"kvs":[{"key":"%"}]}"#, r#"{"kvs":[{"key":"","mod_revision":"x"}]}"#, r#"{"header":[[]]}"#] {
            assert!(serde_json::from_str::<Range>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_range_ends_after_its_prefix() {
        assert_eq!(prefix_end("/guideway/intent/"), "/guideway/intent0");
        assert_eq!(range("a", "b"), json!({"key": "YQ==", "range_end": "Yg=="}));
    }
}
