//! Control: the one writer of tables, the kernel's neighbours, and the control socket. Only the writer builds the tables that workers read.

pub mod api;
pub mod changes;
mod counters_document;
pub mod events;
pub mod explain;
pub mod fleet;
pub mod health_source;
pub mod host_problems;
pub mod known_vips;
pub mod metrics;
pub mod neighbour;
pub mod next_hops;
pub mod status;
pub mod store_status;
pub mod suspected;
pub mod view;
pub mod worker_status;
pub mod writer;

pub use api::{Api, DryRun, ReloadRequest};
pub use counters_document::counters_document;
pub use host_problems::{HostProblem, HostProblems};
pub use next_hops::{Link, NextHops, Unresolved};
pub use status::{DirectorInfo, DrainingSummary, IDLE_TIMEOUT, Status};
pub use store_status::StoreStatus;
pub use suspected::{Suspect, SuspectedBackends};
pub use view::{Announced, CheckedHealth, View};
pub use worker_status::WorkerStatus;
pub use writer::{ApplyError, BackendEntry, BackendState, Writer};
