//! The whole configuration of a director.

use super::{Announce, ApiListen, Director, Neighbour, Pool, Store, Vip};
use guideway_hash::KeyId;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[director]`
    pub director: Director,
    /// `active_key`: the id of the key that the director uses; default: `[director] key`.
    pub active_key: Option<KeyId>,
    /// `[[vip]]`, in the order of the file.
    pub vips: Vec<Vip>,
    /// `[[pool]]`, in the order of the file.
    pub pools: Vec<Pool>,
    /// `[[neighbour]]`: static, for replay and tests.
    pub neighbours: Vec<Neighbour>,
    /// `[announce]`: announces the VIPs, if present.
    pub announce: Option<Announce>,
    /// `[store]`: holds VIPs and pools, if this file does not.
    pub store: Option<Store>,
    /// `[api]`: the API over TCP; off by default.
    pub api: Option<ApiListen>,
}
