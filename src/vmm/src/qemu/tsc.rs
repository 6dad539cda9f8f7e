//! The guest's clock frequency under TCG.
//!
//! TCG answers the guest's `rdtsc` with the host's counter, and the guest measures its frequency
//! against an emulated timer. On a busy host that measurement fails (seen: one boot in four) and
//! the kernel hangs. So the frequency is measured here and put on the kernel's command line.

use mvm_model::vm::Accel;

use super::args::{Arch, TscKhz};

/// What the guest must be told, if anything. Blocks for 20 ms the first time in a process.
pub(crate) fn guest_tsc(accel: Accel, arch: Arch) -> Option<TscKhz> {
    (accel == Accel::Tcg && arch == Arch::X86_64).then(host_khz).flatten()
}

#[cfg(target_arch = "x86_64")]
fn host_khz() -> Option<TscKhz> {
    use std::sync::OnceLock;
    static MEASURED: OnceLock<TscKhz> = OnceLock::new();
    Some(*MEASURED.get_or_init(measure))
}

#[cfg(not(target_arch = "x86_64"))]
fn host_khz() -> Option<TscKhz> {
    None
}

/// The best of three: a reading that was interrupted between counter and clock spans more time.
#[cfg(target_arch = "x86_64")]
fn measure() -> TscKhz {
    let (start_ticks, start) = reading();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let (end_ticks, end) = reading();
    let nanos = (end - start).as_nanos().max(1);
    let khz = u128::from(end_ticks.wrapping_sub(start_ticks)) * 1_000_000 / nanos;
    TscKhz(khz as u64)
}

/// Counter and clock read as close together as three tries allow.
#[cfg(target_arch = "x86_64")]
fn reading() -> (u64, std::time::Instant) {
    let try_once = || {
        let before = counter();
        let now = std::time::Instant::now();
        let after = counter();
        (after.wrapping_sub(before), before, now)
    };
    let tries = [try_once(), try_once(), try_once()];
    let (spread, before, now) = tries.into_iter().min_by_key(|t| t.0).unwrap_or(tries[0]);
    (before.wrapping_add(spread / 2), now)
}

#[cfg(target_arch = "x86_64")]
fn counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and it touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree_within_a_thousandth() {
        let (TscKhz(one), TscKhz(two)) = (measure(), measure());
        assert!(one > 100_000, "{one} kHz");
        assert!(one.abs_diff(two) < one / 1000, "{one} and {two} kHz");
    }

    #[test]
    fn only_translated_x86_guests_need_to_be_told() {
        assert!(guest_tsc(Accel::Tcg, Arch::X86_64).is_some());
        assert_eq!(guest_tsc(Accel::Kvm, Arch::X86_64), None);
        assert_eq!(guest_tsc(Accel::Tcg, Arch::Aarch64), None);
    }
}
