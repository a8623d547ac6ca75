//! The documents that Guideway's daemons give over their control sockets, as types.
//!
//! JSON, terminal tables, metrics and the OpenAPI document are views of these types; the doc comments are the descriptions in the OpenAPI document.
//!
//! | Daemon | Documents |
//! |---|---|
//! | director | [`status`], [`backend`], [`vip`], [`pool`], [`transfers`], [`neighbour`], [`counters`], [`explain`], [`event`], [`plan`], [`history`], [`error`], [`presence`], [`state`]; requests: [`intent`] |
//! | TFTP server | [`server`] |
//! | health controller | [`health`] |

pub mod backend;
pub mod counters;
pub mod error;
pub mod event;
pub mod event_kinds;
pub mod explain;
pub mod health;
pub mod history;
pub mod intent;
pub mod neighbour;
pub mod plan;
pub mod pool;
pub mod presence;
pub mod server;
pub mod state;
pub mod status;
pub mod transfers;
pub mod vip;

use serde::Deserialize;

/// The status of any daemon, distinguished by its `kind`.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Status {
    /// A director.
    Director(Box<status::DirectorStatus>),
    /// A TFTP server.
    Tftpd(Box<server::ServerStatus>),
    /// A health controller.
    Health(Box<health::ControllerStatus>),
}
