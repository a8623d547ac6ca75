//! The directors that share this one's store, as far as they are ready: among them datagrams in fragments are divided.

use guideway_api::presence::Presence;
use guideway_store::Store;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::watch;

/// Interval at which the store is read. A director that died leaves it when its lease ends.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Watches the store for directors: one address of each, the IPv4 address where there is one. A store that cannot be read changes nothing. The task ends with the
/// receiver; a store without other directors needs none.
pub fn watch(store: Store) -> watch::Receiver<Vec<IpAddr>> {
    let (sender, receiver) = watch::channel(Vec::new());
    if store.is_durable() {
        tokio::spawn(async move {
            while !sender.is_closed() {
                if let Ok(records) = store.directors().await {
                    let mut present: Vec<IpAddr> = records.into_iter().filter_map(|(_, record)| address(record)).collect();
                    present.sort_unstable();
                    sender.send_if_modified(|before| {
                        let changed = *before != present;
                        *before = present;
                        changed
                    });
                }
                tokio::time::sleep(INTERVAL).await;
            }
        });
    }
    receiver
}

/// A record of another version may be unreadable, or without addresses.
fn address(record: serde_json::Value) -> Option<IpAddr> {
    let presence: Presence = serde_json::from_value(record).ok()?;
    presence.addresses.into_iter().min_by_key(IpAddr::is_ipv6).filter(|_| presence.ready)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_ready_director_has_one_address_and_ipv4_comes_first() {
        let read = |record| address(record).map(|address| address.to_string());
        assert_eq!(read(json!({"ready": true, "addresses": ["2001:db8::1", "10.0.1.11"], "generation": 7})).as_deref(), Some("10.0.1.11"));
        assert_eq!(read(json!({"ready": true, "addresses": ["2001:db8::1"]})).as_deref(), Some("2001:db8::1"));
        for record in [
            json!({"ready": true, "generation": 7}),
            json!({"addresses": ["10.0.1.11"]}),
            json!({"ready": true, "addresses": [7]}),
            json!(3),
        ] {
            assert_eq!(read(record), None);
        }
    }
}
