//! The keys of the file of a TFTP server, but for those of `[[pool]]`, which directors have too. A test holds that the readers ask for exactly these.

use guideway_config::keys::{Key, Section, key};

/// The keys of the file of a TFTP server.
pub const SERVER: &[Section] = &[
    Section::new("server", PROCESS),
    Section::new("server", UPLOADS),
    Section::new("server", TRANSFERS),
    Section::new("handler", HANDLER),
    Section::of_kind("handler", &["directory"], DIRECTORY),
    Section::of_kind("handler", &["http"], HTTP),
    Section::of_kind("handler", &["template"], TEMPLATE),
    Section::new("handler.inventory", INVENTORY),
    Section::of_kind("handler", &["exec"], &[key("program", "required", "a path, or a list of it and arguments")]),
    Section::of_kind("handler", &["hook"], HOOK),
    Section::of_kind("handler", &["exec", "hook"], LOGIC),
    Section::new("rule", RULE),
    Section::new("rule.remap", REMAP),
    Section::new("limits", LIMITS),
    Section::new("reports", REPORTS),
    Section::new("takeover", TAKEOVER),
    Section::new("takeover.memory", MEMORY),
];

const PROCESS: &[Key] = &[
    key("name", "`\"tftpd\"`", "names the control socket, 1–63 of `a-z A-Z 0-9 - _ .`"),
    key("socket", "`/run/guideway/<name>.sock`", "path of the control socket"),
    key("metrics", "none", "address and port for Prometheus"),
    key("listen", "`\"[::]:69\"`, with `gre` none", "one address with port, or a list; without it, sockets that systemd passes come first"),
    key("http", "none", "the same content by HTTP: one address with port, or a list"),
    key("http_connections", "4096", "HTTP connections at once, 1–1000000"),
    key("http_per_client", "64", "HTTP connections at once with one client address, in IPv6 with one /64, 1–1000000"),
    key("gre", "none", "tunnel: addresses of this host that take GRE, one of each family; one or a list; needs `vip`"),
    key("vip", "none", "tunnel: addresses that clients ask, one or a list; needs `gre`"),
    key("tid_port", "any", "port of the first loop, 1024–65535; the next loop has the next one"),
    key("single_port", "false", "answers from the port of the requests instead"),
    key("loops", "1", "event loops, each a thread, 1–64"),
    key("nice", "2", "nice value of event loops above that of other threads, 0–19"),
    key("grace", "`\"30s\"`, with `[takeover]` 0s", "after SIGTERM: longest time for running transfers, 0s–1h"),
    key("user", "unchanged", "user to become once ports are bound"),
];

const UPLOADS: &[Key] = &[
    key("writable", "none", "directory for files of clients"),
    key("writable_limit", "`\"1MiB\"`", "size of each file, 1B–1TiB"),
    key("writable_files", "10000", "number of files there, 1–10000000"),
    key("writable_total", "none", "sum of all files there, 1B–1048576TiB"),
];

const TRANSFERS: &[Key] = &[
    key("max_blksize", "65464", "bytes of a block, 8–65464"),
    key("fragments", "false", "whether a block may exceed the path's MTU"),
    key("max_window", "64", "blocks of a window, 1–32767"),
    key("max_window_bytes", "`\"1MiB\"`", "bytes of a window, 512B–1GiB"),
    key("rollover", "0", "number of the block after 65535, when the client does not ask: 0 or 1"),
    key("max_transfers", "100000", "transfers at once in each loop, 1–4000000"),
    key("max_per_client", "1000", "transfers at once with one client address, 1–4000000"),
    key("timeout", "`\"1s\"`", "retransmission time-out before a round trip was measured, 1ms–60s"),
    key("timeout_min", "`\"40ms\"`", "shortest measured time-out, 1ms–60s"),
    key("timeout_max", "`\"6s\"`", "longest time-out, doubled ones included, 1ms–60s"),
    key("retries", "5", "retransmissions before giving up, 0–100"),
    key("give_up_after", "`\"20s\"`", "shortest time without progress before giving up, 100ms–1h"),
    key("open_timeout", "`\"15s\"`", "until a handler must have answered, 100ms–1h"),
];

const HANDLER: &[Key] = &[
    key("name", "required", "unique, 1–63 of `a-z A-Z 0-9 - _ .`"),
    key("kind", "required", "`\"directory\"`, `\"http\"`, `\"template\"`, `\"exec\"` or `\"hook\"`"),
];

const DIRECTORY: &[Key] = &[
    key("root", "required", "path of the directory"),
    key("symlinks", "true", "whether links are followed, below the root only"),
    key("ignore_case", "false", "whether `A` finds `a`"),
];

const HTTP: &[Key] = &[
    key("url", "required", "prefix of all names"),
    key("ca", "authorities of the host", "file of authorities for https"),
    key("cache", "required", "a directory for this handler only"),
    key("cache_size", "`\"10GiB\"`", "size of the cache, 1MiB–1024TiB"),
    key("max_age", "`\"10s\"`", "how long the origin is not asked whether a file has changed, 0s–24h"),
    key("negative_ttl", "`\"5s\"`", "how long a missing file is not asked for again, 0s–1h"),
    key("stale_if_error", "true", "whether the cached file is served when the origin is down"),
    key("timeout", "`\"10s\"`", "longest time without a byte from the origin, 1s–5m"),
    key("redirect_hosts", "none", "hosts, or HOST:PORT, beside that of `url` that redirects may lead to, one or a list"),
    key("forward_client", "none", "header of requests to the origin with the client's address, such as `\"X-Forwarded-For\"`"),
    key("max_connections", "16", "connections to the origin at once, 1–1024"),
];

const TEMPLATE: &[Key] = &[
    key("pattern", "required", "regular expression of names; the template sees its captures"),
    key("directory", "required", "directory of templates"),
    key("template", "required", "name of the template in it"),
    key("inventory", "none", "list of machines, a table"),
];

const INVENTORY: &[Key] = &[
    key("csv", "one of three", "file with the list of machines"),
    key("json", "one of three", "file with the list of machines"),
    key("url", "one of three", "service that is asked for each machine"),
    key("ca", "authorities of the host", "with an https `url`: file of authorities"),
    key("key", "required", "the column or member that names a machine"),
    key("from", "as `key`", "the capture that is looked up in it, or `client`"),
    key("optional", "false", "whether an unknown machine gets a file too"),
    key("timeout", "`\"5s\"`", "longest answer of a service, 1s–60s"),
    key("concurrency", "64", "queries to it at once, 1–4096"),
];

const HOOK: &[Key] = &[key("url", "required", "URL of the service"), key("ca", "authorities of the host", "file of authorities for https")];

const LOGIC: &[Key] = &[
    key("answer", "`\"decision\"`", "`\"decision\"`: the answer decides on a file; `\"bytes\"`: it is the file itself"),
    key("files", "none", "handler that opens the file decided on; stands before this one"),
    key("timeout", "`\"5s\"`", "longest answer, 1s–5m"),
    key("max_output", "`\"16MiB\"`", "size of the answer, 1B–1GiB"),
    key("concurrency", "16, hook 64", "requests at once, 1–4096"),
];

const RULE: &[Key] = &[
    key("file", "all", "a glob, or a list; `**` crosses directories"),
    key("ignore_case", "false", "whether `file` ignores the case of ASCII letters"),
    key("client", "all", "prefixes of clients, one or a list"),
    key("vip", "all", "addresses that were asked, one or a list"),
    key("remap", "none", "a table, or a list of them"),
    key("use", "none", "a handler, or a list asked until one has the file"),
    key("deny", "false", "whether the request is refused"),
];

const REMAP: &[Key] = &[
    key("pattern", "required", "regular expression of names"),
    key(
        "to",
        "required",
        "replacement of its first match: `$1` for a capture, `\\i` for the client's address, `\\x` for it in hexadecimal, `\\U`, `\\L`, `\\E` for the case of what follows",
    ),
];

const LIMITS: &[Key] = &[
    key("rate", "none", "requests a second of one prefix, 1–1000000; this or `concurrent` is required"),
    key("burst", "32", "requests beyond the rate, 1–1000000"),
    key("concurrent", "none", "transfers of one prefix at once, 1–1000000"),
    key("prefix4", "32", "bits of an IPv4 address that count as one client, 1–32"),
    key("prefix6", "64", "bits of an IPv6 address that count as one client, 1–128"),
    key("max_prefixes", "65536", "prefixes that are remembered, 1024–16777216"),
];

const REPORTS: &[Key] = &[
    key("file", "none", "file for reports, opened anew when it was moved; one of `file`, `socket`, `url` is required"),
    key("socket", "none", "Unix datagram socket of another program, a report each"),
    key("url", "none", "service that reports are posted to"),
    key("ca", "authorities of the host", "with an https `url`: file of authorities"),
    key("timeout", "`\"5s\"`", "with `url`: longest answer, 1s–5m"),
    key("retries", "3", "with `url`: further attempts for a batch, 0–100; the pause before them doubles from 0.5 s to 30 s"),
    key("batch", "500", "with `url`: reports of one request, 1–10000"),
    key("interval", "`\"1s\"`", "with `url`: how long a report waits for others, 0s–1h"),
    key("queue", "10000", "reports that may wait for each target, 1–1000000; further ones are dropped and counted"),
];

const TAKEOVER: &[Key] = &[
    key(
        "config",
        "none",
        "a director's file with pool and key; required unless this file has `[[pool]]`, with the keys that directors have there",
    ),
    key("key", "from `config`", "the fleet's key, 32 hex digits"),
    key("key_file", "from `config`", "file with the fleet's key; up to three further lines of it are keys that are accepted too"),
    key("next_key", "none", "beside `key`: a key that the fleet had or will have, accepted from others"),
    key("name", "`server.name`", "this server as a backend"),
    key("pool", "the one it is in", "name of the pool, when several have it"),
    key("port", "6970", "UDP among the servers, the same on all, 1–65535"),
    key(
        "checkpoint_timeout",
        "`\"3ms\"`",
        "longest time that a first answer waits for a successor to confirm, 0ms–100ms; when a client repeats its request from the port of a running transfer, for both successors, up to 2 s",
    ),
    key("memory", "none", "limits of the checkpoints of others, a table"),
];

const MEMORY: &[Key] = &[
    key("transfers", "200000", "checkpoints of others that are stored, 1–100000000"),
    key("bytes", "`\"64MiB\"`", "their size, 1KiB–1TiB"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_config::keys::{DIRECTOR, Sample, differences};

    #[test]
    fn readers_ask_for_the_keys_of_the_tables() {
        let mut samples = Vec::new();
        let mut add = |path, kinds: &[&'static str], text: &str| {
            samples.extend(kinds.iter().map(|kind| Sample { path, kind, text: text.replace('?', kind) }));
        };
        add("", &[""], "");
        add("server", &[""], "[server]");
        add("handler", &["directory", "http", "template", "exec", "hook"], "[[handler]]\nkind = '?'");
        add("handler.inventory", &[""], "[[handler]]\nkind = 'template'\ninventory = { url = 'https://a/' }");
        add("rule", &[""], "[[rule]]");
        add("rule.remap", &[""], "[[rule]]\nremap = {}");
        add("limits", &[""], "[limits]");
        add("reports", &[""], "[reports]");
        add("takeover", &[""], "[takeover]");
        add("takeover.memory", &[""], "[takeover]\nmemory = {}");
        add("pool", &[""], "[[pool]]");
        let pool = DIRECTOR.iter().copied().filter(|section| section.path == "pool");
        let sections: Vec<Section> = SERVER.iter().copied().chain(pool).collect();
        assert_eq!(differences(&sections, &samples, |text| drop(crate::config::read(text))), [""; 0]);
    }
}
