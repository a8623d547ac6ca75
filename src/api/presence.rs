//! Records that directors leave in their store for as long as they run, and in what they disagree.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use utoipa::ToSchema;

/// The record of a director in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Presence {
    /// Whether it forwards packets.
    #[serde(default)]
    #[schema(required)]
    pub ready: bool,
    /// Its addresses, once it is ready: other directors hand fragments on to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// The process; absent in the record of another version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
    /// Its tables, once it is ready.
    #[serde(flatten)]
    pub tables: Option<PresentTables>,
}

/// A running process of a director.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    /// Random; no two processes have the same.
    pub id: String,
    /// Boot and process namespace of its host.
    pub host: String,
    /// Number of the process there.
    pub pid: u32,
    /// When the process began, in the units of `/proc/PID/stat`.
    pub start_time: u64,
    /// Address of the director.
    pub address: String,
}

/// The tables of a director, as other readers of the store compare them. A director of another version may leave out all but the generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PresentTables {
    /// Version of the program.
    #[serde(default)]
    pub version: String,
    /// Generation of the cluster state that workers read.
    pub generation: u64,
    /// Ids of the keys that it knows.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Id of the key in use.
    #[serde(default)]
    pub active_key: Option<String>,
    /// Version of the contract by which tables are made; 0: unknown.
    #[serde(default)]
    pub table_version: u32,
    /// Fingerprint of the Maglev table of each pool.
    #[serde(default)]
    pub tables: BTreeMap<String, String>,
    /// Transfers that still run on backends that get no new ones, by `pool/backend`.
    #[serde(default)]
    pub draining: BTreeMap<String, u64>,
}

/// In what two directors of a store disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DisagreementKind {
    /// Both have the same name.
    Name,
    /// They use different keys.
    Key,
    /// They make tables by different contracts.
    TableVersion,
    /// They have different tables of the same generation.
    Tables,
}

impl DisagreementKind {
    /// All kinds.
    pub const ALL: [DisagreementKind; 4] =
        [DisagreementKind::Name, DisagreementKind::Key, DisagreementKind::TableVersion, DisagreementKind::Tables];

    /// Returns the name in JSON and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            DisagreementKind::Name => "name",
            DisagreementKind::Key => "key",
            DisagreementKind::TableVersion => "table_version",
            DisagreementKind::Tables => "tables",
        }
    }
}

/// A director of the same store that would send packets elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Disagreement {
    /// Name of the other director.
    pub director: String,
    /// In what they disagree.
    pub kind: DisagreementKind,
    /// The difference, and what to do.
    pub why: String,
}

impl PresentTables {
    /// Returns in what the director `name` disagrees with the one of these tables.
    pub fn disagreement(&self, name: &str, other: &PresentTables) -> Option<Disagreement> {
        let found = |kind, why: String| Some(Disagreement { director: name.to_owned(), kind, why });
        if self.table_version != other.table_version && self.table_version > 0 && other.table_version > 0 {
            let why =
                format!("it makes tables of version {}, not {}: run the same version everywhere", other.table_version, self.table_version);
            return found(DisagreementKind::TableVersion, why);
        }
        let disjoint = !self.keys.is_empty() && !other.keys.is_empty() && !self.keys.iter().any(|key| other.keys.contains(key));
        let same_generation = self.generation == other.generation;
        let other_key = match (&self.active_key, &other.active_key) {
            (Some(own), Some(other)) => own != other,
            _ => false,
        };
        if disjoint || (same_generation && other_key) {
            let key = |tables: &PresentTables| tables.active_key.clone().unwrap_or_else(|| tables.keys.join(", "));
            let why = format!("it uses key {}, not {}: give all directors the same `key`", key(other), key(self));
            return found(DisagreementKind::Key, why);
        }
        let differs = |(pool, fingerprint): &(&String, &String)| other.tables.get(*pool).is_some_and(|other| other != *fingerprint);
        match self.tables.iter().find(differs) {
            Some((pool, fingerprint)) if same_generation => {
                let theirs = other.tables.get(pool).map_or("", String::as_str);
                let why = format!("its table of pool {pool} is {theirs}, not {fingerprint}, in the same generation");
                found(DisagreementKind::Tables, why)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directors_that_would_send_packets_elsewhere_disagree() {
        let own = PresentTables {
            version: "1".to_owned(),
            generation: 7,
            keys: vec!["k1".to_owned(), "k2".to_owned()],
            active_key: Some("k1".to_owned()),
            table_version: 2,
            tables: [("boot".to_owned(), "aa".to_owned())].into(),
            draining: BTreeMap::new(),
        };
        let kind = |change: fn(&mut PresentTables)| {
            let mut other = own.clone();
            change(&mut other);
            own.disagreement("d2", &other).map(|found| found.kind)
        };
        assert_eq!(kind(|_| {}), None);
        assert_eq!(kind(|other| other.table_version = 3), Some(DisagreementKind::TableVersion));
        assert_eq!(kind(|other| other.active_key = Some("k2".to_owned())), Some(DisagreementKind::Key));
        assert_eq!(kind(|other| other.keys = vec!["k3".to_owned()]), Some(DisagreementKind::Key));
        assert_eq!(kind(|other| drop(other.tables.insert("boot".to_owned(), "bb".to_owned()))), Some(DisagreementKind::Tables));
        // While a change spreads, tables and the key in use may differ; and another version may say less.
        assert_eq!(kind(|other| (other.generation, other.active_key) = (8, Some("k2".to_owned()))), None);
        assert_eq!(kind(|other| *other = PresentTables { generation: 7, ..PresentTables::default() }), None);
    }
}
