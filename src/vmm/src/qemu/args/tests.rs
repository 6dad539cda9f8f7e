use proptest::prelude::*;

use super::*;
use crate::spec::example;

/// One option per line, as a person would write it.
fn golden(spec: &VmSpec, mode: StartMode, arch: Arch, tsc: Option<TscKhz>) -> String {
    let mut out = String::new();
    for word in command_line(spec, mode, arch, tsc) {
        out.push_str(if word.starts_with('-') { "\n" } else { " " });
        out.push_str(&word);
    }
    out.trim_start().to_owned()
}

#[test]
fn a_booting_microvm_looks_like_this() {
    let line = golden(&example(), StartMode::Boot, Arch::X86_64, Some(TscKhz(2_600_000)));
    assert_eq!(line, include_str!("x86_64-boot.txt").trim_end());
}

#[test]
fn a_virt_machine_waiting_for_a_restore_looks_like_this() {
    let spec = VmSpec { accel: Accel::Kvm, ..example() };
    let line = golden(&spec, StartMode::Restore, Arch::Aarch64, None);
    assert_eq!(line, include_str!("aarch64-restore.txt").trim_end());
}

#[test]
fn a_probe_has_no_drives_and_no_network() {
    let spec = VmSpec { drives: vec![], net: None, cmdline: "mvm.probe".into(), ..example() };
    let line = golden(&spec, StartMode::Boot, Arch::X86_64, None);
    assert!(!line.contains("virtio-blk") && !line.contains("virtio-net"));
    assert!(line.contains("init_on_free=1 reboot=t mvm.probe\n"));
}

/// The slot numbers in the order of the devices.
fn slots(words: &[String]) -> Vec<usize> {
    let devices = words.iter().filter(|word| word.contains("bus=virtio-mmio-bus."));
    let number = |word: &String| {
        let (_, rest) = word.split_once("bus=virtio-mmio-bus.").unwrap();
        rest.split(',').next().unwrap().parse().unwrap()
    };
    devices.map(number).collect()
}

proptest! {
    #[test]
    fn devices_keep_their_order_and_avoid_slot_zero_of_a_microvm(
        drives in 0_usize..=4, with_net: bool, restore: bool,
    ) {
        let mut spec = example();
        spec.drives.truncate(drives);
        if !with_net {
            spec.net = None;
        }
        let mode = if restore { StartMode::Restore } else { StartMode::Boot };
        let x86 = slots(&command_line(&spec, mode, Arch::X86_64, None));
        prop_assert_eq!(x86.len(), drives + usize::from(with_net) + 2);
        prop_assert!(x86.is_sorted_by(|a, b| a > b) && x86.iter().all(|slot| *slot >= 1));
        let arm = slots(&command_line(&spec, mode, Arch::Aarch64, None));
        prop_assert!(arm.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn no_word_of_a_tenant_becomes_an_option(cmdline in "[ -~]{0,200}") {
        let spec = VmSpec { cmdline: cmdline.clone(), ..example() };
        let plain = command_line(&example(), StartMode::Boot, Arch::X86_64, None);
        let words = command_line(&spec, StartMode::Boot, Arch::X86_64, None);
        prop_assert_eq!(words.len(), plain.len());
        let differing: Vec<_> = words.iter().zip(&plain).filter(|(a, b)| a != b).collect();
        prop_assert!(differing.len() <= 1);
    }

    #[test]
    fn descriptors_do_not_collide(drives in 0_usize..=4, with_net: bool) {
        let mut spec = example();
        spec.drives.truncate(drives);
        if !with_net {
            spec.net = None;
        }
        let fds = Fds::of(&spec);
        let mut used = vec![Fds::CONSOLE, Fds::QMP, Fds::AGENT];
        used.extend((0..drives).map(|index| fds.drive(index)));
        used.extend(with_net.then(|| fds.tap()));
        prop_assert_eq!(used, (3..fds.end()).collect::<Vec<_>>());
    }
}
