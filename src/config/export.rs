//! Writes an intent as TOML that operators can edit: `[[vip]]` and `[[pool]]`, one backend a line.

use super::{Intent, Pool, Vip};
use serde_json::Value;
use std::fmt::Write;

impl Intent {
    /// Returns the TOML text of this intent; [`super::read_intent`] reads it back.
    pub fn to_toml(&self) -> String {
        let mut text = self.active_key.map_or_else(String::new, |id| format!("active_key = \"{id}\"\n"));
        let vips = self.vips.iter().map(|vip| ("vip", Vip::to_json(vip)));
        let pools = self.pools.iter().map(|pool| ("pool", Pool::to_json(pool)));
        for (name, document) in vips.chain(pools) {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{}[[{name}]]", if text.is_empty() { "" } else { "\n" });
            for (key, value) in document.as_object().into_iter().flatten() {
                line(&mut text, key, value);
            }
        }
        text
    }
}

fn line(text: &mut String, key: &str, value: &Value) {
    let _ = match value {
        Value::Null => Ok(()),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            let items: String = items.iter().map(|item| format!("  {},\n", inline(item))).collect();
            writeln!(text, "{key} = [\n{items}]")
        }
        value => writeln!(text, "{key} = {}", inline(value)),
    };
}

fn inline(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let pairs = map.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| format!("{key} = {}", inline(value)));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::String(text) => toml::Value::String(text.clone()).to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::read_intent;

    #[test]
    fn an_intent_survives_a_round_trip_through_text() {
        let text = r#"active_key = "0123456789abcdef"

[[vip]]
address = "192.0.2.53"
service = { protocol = "udp", ports = [53, "8000-8100"] }
pool = "names"
idle = "1m30s"
paused = true

[[pool]]
name = "names"
table_size = 1009
takeover = false
backends = [
  { name = "n1", address = "10.0.2.31", weight = 7, drain = false },
  { name = "n2", address = "2001:db8::2", weight = 100, drain = true },
]

[[pool]]
name = "none"
table_size = 65537
takeover = false
backends = []
"#;
        let intent = read_intent(text).config.unwrap();
        assert_eq!(intent.to_toml(), text);
        assert_eq!(read_intent("").config.unwrap().to_toml(), "");
    }
}
