//! The host agent: intent in, microVMs out.
//!
//! ```text
//! cli ─▶ Service ─┬ records      what was asked for and what is, one JSON file per object
//!                 ├ driver       one instance through one transition, step by step
//!                 │   ├ machine  its VM: launch, pause, save, restore, end   (mvm-vmm)
//!                 │   └ link     its guest: ready, sleep-prep, wake, power-off (guest)
//!                 ├ tenant, pool, network, upkeep                              (mvm-host)
//!                 └ view, stats, overview, doctor   what people and tools see
//! shim: the process beside each VM
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod audit;
pub mod blueprint;
pub mod bootstrap;
pub mod dirs;
pub mod doctor;
pub mod driver;
pub mod error;
pub mod guest;
pub mod link;
pub mod machine;
pub mod network;
pub mod observe;
pub mod overview;
pub mod pool;
pub mod prove;
pub mod records;
pub mod revision;
pub mod service;
pub mod shim;
mod socket;
pub mod stats;
pub mod tenant;
pub mod upkeep;
pub mod view;

pub use dirs::Dirs;
pub use service::Service;
