//! Keeping what a process holds in clear out of core files and swap.

use std::sync::Once;

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{Resource, setrlimit};

/// Makes this process one that may hold secrets: no core dumps, not to be read by other processes
/// of its user, no page swapped out. Costs nothing when repeated. What is not allowed (without
/// privileges) stays undone: the secrets of a process anybody can read are that user's.
pub fn guard_memory() {
    static GUARDED: Once = Once::new();
    GUARDED.call_once(|| {
        let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
        let _ = nix::sys::prctl::set_dumpable(false);
        // Locked when used, so that nothing that is not used takes memory. `nix` does not know
        // this flag by name.
        let on_fault = MlockAllFlags::from_bits_retain(nix::libc::MCL_ONFAULT);
        let _ = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault);
    });
}
