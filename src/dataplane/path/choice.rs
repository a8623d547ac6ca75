//! Which backend a packet goes to, and what named it.

use crate::counters::PacketCounter;
use crate::tables::BackendId;

/// What named the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelectedBy {
    /// The TID range that the server's port lies in.
    TidRange,
    /// The flow table.
    Flow,
    /// The Maglev table.
    Maglev,
    /// The ranking of successors: the owner is down, or leaves the request unanswered.
    Successor,
    /// The remote site: no backend here takes the packet, or its server port belongs to none of them. One of the remote site's directors gets it.
    RemoteSite,
}

impl SelectedBy {
    /// The counter of packets whose backend was named this way.
    pub fn counter(self) -> PacketCounter {
        match self {
            SelectedBy::TidRange => PacketCounter::ByTidRange,
            SelectedBy::Flow => PacketCounter::ByFlow,
            SelectedBy::Maglev => PacketCounter::ByMaglev,
            SelectedBy::Successor => PacketCounter::BySuccessor,
            SelectedBy::RemoteSite => PacketCounter::ByRemoteSite,
        }
    }

    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            SelectedBy::TidRange => "tid_range",
            SelectedBy::Flow => "flow",
            SelectedBy::Maglev => "maglev",
            SelectedBy::Successor => "successor",
            SelectedBy::RemoteSite => "remote_site",
        }
    }
}

/// A chosen backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its number.
    pub backend: BackendId,
    /// What named it.
    pub by: SelectedBy,
}
