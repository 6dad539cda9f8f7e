//! What things are: ids, names, quantities, records and the instance state machine.
//!
//! Every other crate speaks these words. Nothing here does I/O, reads the clock or draws a
//! random number: time and ids are passed in, so each rule can be tested as a value.
//!
//! - [`name`], [`id`]: who is who (`<tenant>/<pool>/<instance>`).
//! - [`network`]: the addressing rules (bridge, tap, MAC, address from net id and offset).
//! - [`resources`]: vCPUs, memory, disk and their bounds.
//! - [`secret`]: names and values of secrets, and who sees which.
//! - [`state`]: the instance state machine, its diagram and every transition.
//! - [`record`]: what is kept on disk for a tenant, a pool and an instance.
//! - [`image`]: image sources, revisions and their manifest.
//! - [`snapshot`]: the snapshot manifest and what makes it unusable.
//! - [`intent`]: what a fleet should be, who may change what of it, and merging a declaration.
//! - [`desired`]: what one node should be (DesiredState), read strictly or tolerantly.
//! - [`observed`]: what a node is, as the planner needs it.
//! - [`policy`]: idle and runtime policies, protection, manual override.
//! - [`failpoint`]: every change of a host by name, and where a test can make it fail.

pub mod desired;
pub mod failpoint;
pub mod id;
pub mod image;
pub mod intent;
pub mod name;
pub mod network;
pub mod observed;
pub mod policy;
pub mod record;
pub mod resources;
pub mod secret;
pub mod snapshot;
pub mod state;
pub mod vm;

pub use id::{Digest, InstanceId, InstancePath, PoolPath};
pub use name::{InstanceName, PoolName, ProfileName, TenantName};
pub use network::{Mac, NetId, Offset, Subnet};
