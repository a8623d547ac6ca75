//! Bad input of every kind, made from the OpenAPI document of the running director itself: every answer says what is wrong, and nothing changes.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../dut/mod.rs"]
mod dut;
mod http;
mod schema;

use dut::{Director, backend_for, in_namespaces, to_vip};
use http::{request, send};
use schema::Document;
use serde_json::{Value, json};
use std::path::PathBuf;

const INTENT: &str = r#"
    [[vip]]
    address = "192.0.2.69"
    service = "tftp"
    pool = "boot"
    [[pool]]
    name = "boot"
    table_size = 1009
    backends = [
        { name = "t1", address = "10.0.1.21", tid_range = "20000-20999" },
        { name = "t2", address = "10.0.1.22", tid_range = "21000-21999" },
    ]
"#;
const METHODS: [&str; 8] = ["GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"];
const JSON: &str = "Content-Type: application/json\r\n";

/// Whether the operation changes the intent; a reload does not.
fn changes(operation: &Value) -> bool {
    operation["parameters"].as_array().is_some_and(|all| all.iter().any(|parameter| parameter["name"] == "dry_run"))
}

struct Fuzz {
    director: Director,
    socket: PathBuf,
    document: Document,
    sent: usize,
}

impl Fuzz {
    fn new() -> Fuzz {
        let director = Director::start("af_packet", INTENT, "");
        let document = Document(director.get("/v1/openapi.json"));
        Fuzz { socket: director.socket(), director, document, sent: 0 }
    }

    /// Sends what must be refused, with a reason.
    fn expect_error(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> u16 {
        let answer = send(&self.socket, &request(method, path, headers, body));
        self.sent += 1;
        let shown = String::from_utf8_lossy(&body[..body.len().min(600)]).into_owned();
        assert!((400..500).contains(&answer.status), "{method} {path} {headers}{shown}: {answer:?}");
        let error = &self.document.0["components"]["schemas"]["Error"];
        let schema_error = self.document.schema_error("answer", &answer.document, error);
        assert_eq!(schema_error, None, "{method} {path} {headers}{shown}: {answer:?}");
        assert!(answer.document["error"].as_str().unwrap().len() > 10, "{method} {path} {headers}{shown}: {answer:?}");
        let described = self.document.0["paths"].as_object().unwrap().iter().find(|(known, _)| matches_pattern(known, path));
        if let Some(operation) = described.map(|(_, item)| &item[method.to_ascii_lowercase()]).filter(|operation| operation.is_object()) {
            let code = answer.status.to_string();
            assert!(operation["responses"][&code].is_object(), "{method} {path} answers {code}, which the document does not tell");
        }
        answer.status
    }

    /// Every operation: method, path with good names, and itself.
    fn operations(&self) -> Vec<(String, String, Value)> {
        let paths = self.document.0["paths"].as_object().unwrap();
        let each = paths
            .iter()
            .flat_map(|(path, item)| item.as_object().unwrap().iter().map(move |(method, operation)| (path, method, operation)));
        each.map(|(path, method, operation)| (method.to_uppercase(), good_path(path), operation.clone())).collect()
    }

    fn body_of(operation: &Value) -> Option<&Value> {
        Some(&operation["requestBody"]["content"]["application/json"]["schema"]).filter(|schema| schema.is_object())
    }
}

/// Whether `path`, without its query, is one of `pattern`.
fn matches_pattern(pattern: &str, path: &str) -> bool {
    let path = path.split('?').next().unwrap();
    let (pattern, path): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
    pattern.len() == path.len() && pattern.iter().zip(&path).all(|(pattern, part)| pattern.starts_with('{') || pattern == part)
}

fn good_path(path: &str) -> String {
    path.replace("{pool}", "boot").replace("{backend}", "t1").replace("{address}", "192.0.2.69").replace("{generation}", "1")
}

/// The query that an operation cannot do without.
fn required_query(operation: &Value) -> Vec<String> {
    let parameters = operation["parameters"].as_array().unwrap().iter().filter(|p| p["in"] == "query" && p["required"] == true);
    parameters.map(|p| format!("{}={}", p["name"].as_str().unwrap(), p["example"].as_str().unwrap())).collect()
}

fn with_query(path: &str, query: &[String]) -> String {
    if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
}

#[test]
fn bad_input_of_every_kind_is_refused_with_a_reason_and_changes_nothing() {
    in_namespaces(|mut wire| {
        let mut fuzz = Fuzz::new();
        let before = fuzz.director.state();
        let deep = format!("{}1{}", "{\"a\":".repeat(3000), "}".repeat(3000));
        for (method, path, operation) in fuzz.operations() {
            let required_query = required_query(&operation);
            let good = with_query(&path, &required_query);
            match Fuzz::body_of(&operation) {
                Some(schema) => {
                    for bad in fuzz.document.bad(schema) {
                        fuzz.expect_error(&method, &good, JSON, bad.to_string().as_bytes());
                    }
                    random_bodies(&mut fuzz, &method, &good);
                    let value = fuzz.document.good("", schema).to_string();
                    for cut in [1, value.len() / 2, value.len() - 1] {
                        fuzz.expect_error(&method, &good, JSON, &value.as_bytes()[..cut]);
                    }
                    for kind in [
                        "",
                        "Content-Type: text/plain\r\n",
                        "Content-Type: application/x-www-form-urlencoded\r\n",
                        "Content-Type: json\r\n",
                    ] {
                        assert_eq!(fuzz.expect_error(&method, &good, kind, value.as_bytes()), 415);
                    }
                    for text in ["", " ", "nonsense", "{", "{}}", "{\"a\":}", "[{}]", "null", "NaN", "\"\\ud800\"", "{\"a\":1e999}", &deep]
                    {
                        fuzz.expect_error(&method, &good, JSON, text.as_bytes());
                    }
                    fuzz.expect_error(&method, &good, JSON, b"{\"name\": \"\xff\xfe\"}");
                    assert_eq!(fuzz.expect_error(&method, &good, JSON, &vec![b' '; (8 << 20) + 1]), 413);
                    assert_eq!(fuzz.expect_error(&method, &good, &format!("{JSON}Content-Length: 99999999999\r\n"), b""), 413);
                }
                None => {
                    fuzz.expect_error(&method, &good, JSON, b"{}");
                    fuzz.expect_error(&method, &good, "", b"nonsense");
                }
            }
            parameters(&mut fuzz, &method, &path, &operation, &required_query);
            for header in [
                "If-Match: 1\r\n",
                "If-Match: \"x\"\r\n",
                "If-Match: \"-1\"\r\n",
                "If-Match: \"1\", nonsense\r\n",
                "If-Match: \"\u{e9}\"\r\n",
            ] {
                assert_eq!(fuzz.expect_error(&method, &good, header, b""), 400, "{method} {good} {header}");
            }
            fuzz.expect_error(&method, &good, "Last-Event-ID: nonsense\r\n", b"");
            if changes(&operation) && Fuzz::body_of(&operation).is_none() {
                assert_eq!(fuzz.expect_error(&method, &good, "If-Match: \"0\"\r\n", b""), 412);
            }
        }
        methods_and_paths(&mut fuzz);
        println!("{} bad requests", fuzz.sent);
        assert!(fuzz.sent > 2000, "{}", fuzz.sent);
        assert_eq!(fuzz.director.state(), before);
        assert_eq!(backend_for(&mut wire, &to_vip("198.51.100.7:4000", "192.0.2.69", 21_001)), 22);
    });
}

/// Objects of random keys and values; one key at least is known to nobody.
fn random_bodies(fuzz: &mut Fuzz, method: &str, path: &str) {
    let mut random = fastrand::Rng::with_seed(path.len() as u64);
    for _ in 0..20 {
        let mut body = json!({"zz": any(&mut random, 1)});
        if body["zz"].is_null() {
            body["zz"] = json!(0);
        }
        for _ in 0..random.usize(0..6) {
            let key =
                *random.choice(&["name", "address", "weight", "vip", "pool", "backends", "drain", "service", "idle", "é", "."]).unwrap();
            body[key] = any(&mut random, 4);
        }
        fuzz.expect_error(method, path, JSON, body.to_string().as_bytes());
    }
}

fn any(random: &mut fastrand::Rng, depth: u32) -> Value {
    match random.u32(0..if depth == 0 { 6 } else { 8 }) {
        0 => Value::Null,
        1 => json!(random.bool()),
        2 => json!(random.i64(..)),
        3 => json!(random.f64() * 1e9),
        4 => json!((0..random.usize(0..20)).map(|_| random.char(..)).collect::<String>()),
        5 => json!(random.choice(&["boot", "t1", "10.0.1.24", "192.0.2.69", "tftp", "20000-20999", "1s"])),
        6 => (0..random.usize(0..4)).map(|_| any(random, depth - 1)).collect(),
        _ => (0..random.usize(0..4))
            .map(|_| (random.lowercase().to_string(), any(random, depth - 1)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}

/// Parameters of query and path.
fn parameters(fuzz: &mut Fuzz, method: &str, path: &str, operation: &Value, required_query: &[String]) {
    let with = |more: &str| with_query(path, &required_query.iter().cloned().chain([more.to_owned()]).collect::<Vec<_>>());
    for unknown in ["nonsense=1", "=", "dryrun=true", "%00=1", "dry_run[]=true", "%ff=%ff", &"a".repeat(3000)] {
        assert_eq!(fuzz.expect_error(method, &with(unknown), "", b""), 400, "{unknown}");
    }
    for parameter in operation["parameters"].as_array().unwrap() {
        let (name, example) = (parameter["name"].as_str().unwrap(), parameter["example"].as_str().unwrap_or_default());
        match parameter["in"].as_str().unwrap() {
            "query" => {
                let others: Vec<String> = required_query.iter().filter(|other| !other.starts_with(&format!("{name}="))).cloned().collect();
                let alone = |value: &str| with_query(path, &others.iter().cloned().chain([format!("{name}={value}")]).collect::<Vec<_>>());
                // Most texts are a reason.
                let free = |bad: &&str| name != "reason" || bad.is_empty() || *bad == "%00" || bad.len() > 500;
                for bad in ["", "nonsense", "-1", "1e3", "%00", "%C3%BC", "true,false", "99999999999999999999", &"9".repeat(4000)]
                    .into_iter()
                    .filter(free)
                {
                    // Bodies come after parameters: what is wrong with these is said first.
                    let status = fuzz.expect_error(method, &alone(bad), "", b"");
                    assert!(matches!(status, 400 | 404 | 415), "{name} = {bad}: {status}");
                }
                let twice = with_query(
                    path,
                    &others.iter().cloned().chain([format!("{name}={example}"), format!("{name}={example}")]).collect::<Vec<_>>(),
                );
                assert_eq!(fuzz.expect_error(method, &twice, "", b""), 400);
                if parameter["required"] == true {
                    assert_eq!(fuzz.expect_error(method, &with_query(path, &others), "", b""), 400);
                }
            }
            "path" => {
                let good = good_path(&format!("{{{name}}}"));
                for bad in [
                    "nonsense",
                    "%00",
                    "%ff",
                    "%C3%BC",
                    "%2e%2e",
                    "%2Fetc%2Fpasswd",
                    "t1%20",
                    "%F0%9F%92%A5",
                    "-1",
                    "null",
                    &"a".repeat(4000),
                    "*",
                ] {
                    let path = path.replacen(&format!("/{good}"), &format!("/{bad}"), 1);
                    let (headers, body): (&str, &[u8]) = if Fuzz::body_of(operation).is_some() { (JSON, b"{}") } else { ("", b"") };
                    let status = fuzz.expect_error(method, &with_query(&path, required_query), headers, body);
                    assert!(matches!(status, 400 | 404 | 422), "{path}: {status}");
                }
            }
            _ => {}
        }
    }
}

fn methods_and_paths(fuzz: &mut Fuzz) {
    let paths: Vec<(String, Value)> =
        fuzz.document.0["paths"].as_object().unwrap().iter().map(|(path, item)| (path.clone(), item.clone())).collect();
    for (path, item) in &paths {
        for method in METHODS.iter().filter(|method| item[method.to_ascii_lowercase()].is_null()) {
            assert_eq!(fuzz.expect_error(method, &good_path(path), "", b""), 405, "{method} {path}");
        }
        for wrong in
            [format!("{path}/"), format!("/v2{path}"), path.to_uppercase(), path.replacen('/', "//", 1), format!("{path}/nonsense/x")]
        {
            assert!(matches!(fuzz.expect_error("GET", &good_path(&wrong), "", b""), 400 | 404 | 405), "{wrong}");
        }
    }
    for path in ["/", "/v1", "/v1/", "/metrics", "/v1/../etc", "/%00", "/v1/pools/", "/v1/pools//backends"] {
        assert_eq!(fuzz.expect_error("GET", path, "", b""), 404, "{path}");
    }
}

#[test]
fn what_is_no_http_is_never_waited_for_and_changes_nothing() {
    in_namespaces(|mut wire| {
        let fuzz = Fuzz::new();
        let before = fuzz.director.state();
        let body = br#"{"address": "10.0.1.24", "tid_range": "24000-24999"}"#;
        let whole = request("PUT", "/v1/pools/boot/backends/t9", JSON, body);
        for cut in 0..whole.len() {
            let answer = send(&fuzz.socket, &whole[..cut]);
            assert!(answer.status == 0 || (400..500).contains(&answer.status), "cut at {cut}: {answer:?}");
        }
        let mut random = fastrand::Rng::with_seed(5);
        let mut raw: Vec<Vec<u8>> = (0..200).map(|_| (0..random.usize(1..300)).map(|_| random.u8(..)).collect()).collect();
        // One byte of a good request is another one, before its body: sometimes it stays a good question, never a good change.
        let head = whole.len() - body.len();
        raw.extend((0..400).map(|_| {
            let mut spoilt = request("GET", "/v1/pools/boot/backends/t1", "", b"");
            let at = random.usize(0..spoilt.len().min(head));
            spoilt[at] = random.u8(..);
            spoilt
        }));
        raw.extend(
            [
                "GET /v1/status HTTP/3.7\r\nHost: d\r\n\r\n",
                "GET  HTTP/1.1\r\n\r\n",
                "\r\n\r\n\r\n\r\n",
                "PUT /v1/intent HTTP/1.1\r\nHost: d\r\nContent-Length: -1\r\n\r\n{}",
                "PUT /v1/intent HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
                "PUT /v1/intent HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
                "PUT /v1/intent HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
                "PUT /v1/intent HTTP/1.1\r\nHost: d\r\nExpect: 200-nonsense\r\nContent-Length: 5\r\n\r\n",
                "GET /v1/status\r\n\r\n",
                "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\u{fc}\u{3}\u{3}",
            ]
            .map(|text| text.as_bytes().to_vec()),
        );
        raw.push([b"GET /v1/status HTTP/1.1\r\nX: ".as_slice(), &vec![b'a'; 1 << 20]].concat());
        raw.push([b"GET /".as_slice(), &vec![b'a'; 1 << 20], b" HTTP/1.1\r\n\r\n"].concat());
        raw.push(["GET /v1/status HTTP/1.1\r\n".to_owned(), "X: y\r\n".repeat(5000), "\r\n".to_owned()].concat().into_bytes());
        for bytes in &raw {
            let answer = send(&fuzz.socket, bytes);
            assert!(answer.status < 500, "{:?}: {answer:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(300)]));
        }
        assert_eq!(fuzz.director.state(), before);
        assert_eq!(backend_for(&mut wire, &to_vip("198.51.100.7:4000", "192.0.2.69", 21_001)), 22);
    });
}

#[test]
fn every_good_answer_is_what_the_document_says() {
    in_namespaces(|mut wire| {
        let fuzz = Fuzz::new();
        fuzz.director.change("POST", "/v1/pools/boot/backends/t1/drain", None);
        backend_for(&mut wire, &to_vip("198.51.100.7:4000", "192.0.2.69", 20_001));
        for (method, path, operation) in fuzz.operations() {
            let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
            if !schema.is_object() {
                continue;
            }
            let mut query = required_query(&operation);
            // What would be changed is only asked.
            if changes(&operation) {
                query.push("dry_run=true".to_owned());
            }
            let path = match operation["operationId"].as_str().unwrap() {
                "put_backend" => path.replace("/t1", "/t7"),
                _ => path,
            };
            let (headers, body) = match operation["operationId"].as_str().unwrap() {
                "put_intent" => (JSON, fuzz.director.get("/v1/intent").to_string()),
                "add_pool" => (JSON, json!({"name": "p7", "backends": [{"name": "t7", "address": "10.0.1.24"}]}).to_string()),
                "add_vip" => (JSON, json!({"address": "192.0.2.70", "service": "tftp", "pool": "boot"}).to_string()),
                "put_backend" => (JSON, json!({"address": "10.0.1.24", "tid_range": "25000-25999"}).to_string()),
                "patch_backend" => (JSON, json!({"weight": 7}).to_string()),
                "patch_vip" => (JSON, json!({"paused": true}).to_string()),
                _ => ("", String::new()),
            };
            let answer = send(&fuzz.socket, &request(&method, &with_query(&path, &query), headers, body.as_bytes()));
            // A pool that a VIP uses is not removed, and that is told too.
            let expected = if operation["operationId"] == "delete_pool" { 409 } else { 200 };
            assert_eq!(answer.status, expected, "{method} {path}: {answer:?}");
            if expected == 200 {
                assert_eq!(fuzz.document.schema_error("answer", &answer.document, schema), None, "{method} {path}: {:#}", answer.document);
            }
        }
    });
}
