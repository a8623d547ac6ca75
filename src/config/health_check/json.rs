//! Turns a [`Check`] into the keys of the file.

use super::super::duration::human;
use super::parse::HEX;
use super::{Check, Expect, Probe};
use serde_json::{Value, json};

impl Check {
    /// Returns the table of `check`, with every default written out.
    pub fn to_json(&self) -> Value {
        let mut document = self.probe.to_json();
        let common = json!({
            "interval": human(self.interval),
            "timeout": human(self.timeout),
            "jitter": self.jitter,
            "rise": self.rise,
            "fall": self.fall,
            "hold_down": human(self.hold_down),
            "hold_down_max": human(self.hold_down_max),
            "flap_window": human(self.flap_window),
            "min_healthy": self.min_healthy,
            "slow_start": human(self.slow_start),
        });
        if let (Some(document), Value::Object(common)) = (document.as_object_mut(), common) {
            document.extend(common);
        }
        document
    }
}

impl Probe {
    fn to_json(&self) -> Value {
        let kind = self.kind();
        match self {
            Probe::Tftp(probe) => json!({
                "kind": kind,
                "file": probe.file,
                "sha256": probe.sha256.map(|digest| digits(&digest)),
                "size": probe.size,
                "blksize": probe.blksize,
                "windowsize": probe.windowsize,
                "vip": probe.vip,
            }),
            Probe::Udp { port, send, expect } => {
                json!({"kind": kind, "port": port, "send": text(send), "expect": expect.as_ref().map(Expect::to_json)})
            }
            Probe::Tcp { port } => json!({"kind": kind, "port": port}),
            Probe::Http { port, path, status, expect } => {
                json!({"kind": kind, "port": port, "path": path, "status": status, "expect": expect.as_ref().map(Expect::to_json)})
            }
            Probe::Icmp => json!({"kind": kind}),
            Probe::Exec { command } => json!({"kind": kind, "command": command}),
        }
    }
}

impl Expect {
    fn to_json(&self) -> Value {
        if self.at_start { json!({"prefix": text(&self.bytes)}) } else { json!(text(&self.bytes)) }
    }
}

/// Writes bytes as text if that reads back as the same bytes, otherwise in hex.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with(HEX) => text.to_owned(),
        _ => format!("{HEX}{}", digits(bytes)),
    }
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
