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

mod activity;
mod admission;
pub mod audit;
mod behind;
pub mod blueprint;
pub mod bootstrap;
pub mod build;
pub mod check;
pub mod deployment;
pub mod desired;
pub mod dirs;
pub mod disk;
pub mod doctor;
pub mod driver;
pub mod error;
mod execute;
pub mod explain;
mod facilities;
mod failpoint;
pub mod gc;
pub mod guest;
pub mod handle;
mod hold;
pub mod install;
pub mod intent;
mod launch;
mod ledger;
pub mod link;
pub mod machine;
pub mod network;
pub mod node;
pub mod observe;
mod observed;
pub mod onboard;
pub mod overview;
pub mod ownership;
pub mod pool;
pub mod prove;
pub mod reconcile;
pub mod records;
pub mod revision;
pub mod secret;
pub mod serve;
pub mod service;
pub mod settings;
pub mod shim;
mod socket;
pub mod stats;
pub mod stray;
pub mod template;
pub mod tenant;
#[cfg(test)]
mod testing;
pub mod update;
pub mod upkeep;
pub mod view;
pub mod visit;
pub mod waiting;

pub use dirs::Dirs;
pub use service::Service;
