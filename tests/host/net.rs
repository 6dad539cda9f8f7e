//! Tenant networks in throwaway namespaces: every rule is shown by a frame that is refused and by
//! the honest frame beside it that arrives. Root only; skipped otherwise.

#![allow(unreachable_pub, clippy::unwrap_used)] // one binary, nothing is exported

#[path = "net_frames.rs"]
mod frames;
#[path = "net_guest.rs"]
mod guest;
#[path = "../common/skip.rs"]
mod skip;
#[path = "net_world.rs"]
mod world;

#[path = "net_crash.rs"]
mod crash;
#[path = "net_dns.rs"]
mod dns;
#[path = "net_egress.rs"]
mod egress;
#[path = "net_flows.rs"]
mod flows;
#[path = "net_isolation.rs"]
mod isolation;
#[path = "net_kernel61.rs"]
mod kernel61;
#[path = "net_life.rs"]
mod life;
#[path = "net_probe.rs"]
mod probe;
#[path = "net_spoof.rs"]
mod spoof;
#[path = "net_verify.rs"]
mod verify;
