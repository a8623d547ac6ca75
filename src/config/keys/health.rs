//! The keys of `check`, and of a health controller's file, but for those of `[store]`.

use super::{Key, Section, key};

/// The keys of `check` and of `[health]`.
pub const HEALTH: &[Section] = &[
    Section::new("pool.check", &[key("kind", "required", "`\"tftp\"`, `\"udp\"`, `\"tcp\"`, `\"http\"`, `\"icmp\"` or `\"exec\"`")]),
    Section::of_kind("pool.check", &["tftp"], TFTP),
    Section::of_kind("pool.check", &["udp", "tcp"], &[key("port", "required", "1–65535; `tcp`: a connection is opened and reset")]),
    Section::of_kind("pool.check", &["http"], HTTP),
    Section::of_kind("pool.check", &["udp"], &[key("send", "required", "text, or bytes as `\"hex:00ff\"`")]),
    Section::of_kind(
        "pool.check",
        &["udp", "http"],
        &[key("expect", "any answer", "text or bytes anywhere in the answer; `{ prefix = \"…\" }`: at its beginning")],
    ),
    Section::new(
        "pool.check.expect",
        &[key("prefix", "required", "text or bytes at the beginning of the answer, where `expect` is a table")],
    ),
    Section::of_kind("pool.check", &["exec"], EXEC),
    Section::new("pool.check", COMMON),
    Section::new("health", CONTROLLER),
];

const TFTP: &[Key] = &[
    key("file", "required", "the file to fetch, 1–255 bytes"),
    key("sha256", "none", "SHA-256 of its content, 64 hex digits"),
    key("size", "none", "its size in bytes"),
    key("blksize", "1428", "bytes of a block, 8–65464"),
    key("windowsize", "1", "blocks of a window, 1–64"),
    key("vip", "that of the first `tftp` service that uses the pool", "the VIP that is asked"),
];

const HTTP: &[Key] =
    &[key("port", "80", "1–65535"), key("path", "`\"/\"`", "path of the page"), key("status", "200", "status of a good answer, 100–599")];

const EXEC: &[Key] = &[key(
    "command",
    "required",
    "absolute path and arguments of a program; it gets `GUIDEWAY_BACKEND`, `GUIDEWAY_ADDRESS`, `GUIDEWAY_POOL`; exit code 0 is a pass; it is killed with its \
     process group after `timeout`",
)];

const COMMON: &[Key] = &[
    key("interval", "`\"2s\"`", "from the start of a check to that of the next, 100ms–1h"),
    key("timeout", "`\"1s\"`, or `interval`", "longest duration of a check, 10ms–`interval`"),
    key("jitter", "10", "per cent of `interval` by which a check may be moved, 0–50"),
    key("rise", "2", "passed checks in a row that bring a backend up, 1–100; the very first check decides alone"),
    key("fall", "3", "failed checks in a row that bring a backend down, 1–100"),
    key(
        "hold_down",
        "`\"10s\"`",
        "a backend that goes down again within `flap_window` must pass for this time before it comes up, after each further time twice as long, 0s–1h",
    ),
    key("hold_down_max", "`\"5m\"`", "longest such time, `hold_down`–24h"),
    key("flap_window", "`\"10m\"`", "a backend that stays up for this time starts anew, 0s–24h"),
    key("min_healthy", "50", "per cent of the pool's backends that are never published as down, 0–100"),
    key(
        "slow_start",
        "`\"30s\"`",
        "a returning backend gets 10, 20, … 90 % of its weight over this time, then all; `\"0s\"`: at once; at most 1h",
    ),
];

const CONTROLLER: &[Key] = &[
    key("name", "required", "names the controller and its control socket, 1–63 of `a-z A-Z 0-9 - _ .`"),
    key("source", "required", "address that checks come from, or a list with one IPv4 and one IPv6"),
    key("socket", "`/run/guideway/<name>.sock`", "control socket"),
    key("metrics", "none", "address and port where Prometheus finds `/metrics`"),
    key("intent", "this file", "the file whose `[[vip]]` and `[[pool]]` are checked"),
    key("concurrency", "4096", "checks that run at a time, 1–65536; the others wait, and `guideway_health_check_delay_seconds` grows"),
    key(
        "exec_dirs",
        "none",
        "directories whose programs `exec` checks may run: who may change pools must not be able to run anything on this host",
    ),
];
