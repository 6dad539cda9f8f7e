//! What is left after a reboot and after a power cut: the promises of the fixture that tests of
//! durability build on, and on the same boots what mvm makes of them. Two instances run, sleep or
//! are on their way when the power goes; each time they are settled, run again and have lost
//! nothing that anybody was told is safe.

use std::time::Duration;

use crate::common::Outcome;
use crate::hostvm::{HostVm, PowerCut};
use crate::instance::{self, GUEST, TENANT};
use crate::network::OTHER;

/// A file of the disk's own blocks: sectors are written past the page cache into space that was
/// there before, so that nothing but the disk's cache is between them and the disk.
const SECTORS: &str = "/srv/sectors";

/// How long some records may take, each with a sync of its own, beside the noise.
const WRITTEN: Duration = Duration::from_secs(60);

/// Appends numbered records and says which are safe.
const RECORDER: &str = "#!/bin/sh
rm -f /srv/records; n=0
while :; do
  n=$((n + 1)); echo record $n. >>/srv/records
  sync /srv/records /srv && echo $n >/run/acknowledged.new
  mv /run/acknowledged.new /run/acknowledged
done
";

/// Makes, replaces and removes files without a sync.
const NOISE: &str = "#!/bin/sh
n=0
while :; do
  n=$((n + 1)); mkdir -p /srv/noise.d/$((n % 50))
  head -c 100000 /dev/zero >/srv/noise.d/$((n % 50))/$((n % 7))
  [ $((n % 20)) -ne 0 ] || rm -r /srv/noise.d/$((n % 50))
done
";

/// Appends numbered records inside the guest and says which are safe.
const GUEST_RECORDER: &str = "rm -f /data/records; n=0; while :; do n=$((n + 1)); \
     echo record $n. >>/data/records; sync; echo $n; done";

/// The disk is the same, the boot is another. An instance that ran did not survive and is known to
/// have ended; one that slept sleeps, and if its snapshot is of another kernel it boots from its
/// drives.
pub fn a_reboot_is_another_boot(host: &HostVm) -> Outcome {
    let (boot, machine) = (host.boot_id(), host.text("/etc/machine-id"));
    host.write("/srv/kept", 0o600, b"kept");
    let guest = Guest::remember(host, TENANT);
    instance::sleep_elsewhere(host, &guest.path, "host_kernel", "5.10.0");
    host.reboot();
    assert_ne!(host.boot_id(), boot);
    assert_eq!(host.text("/etc/machine-id"), machine);
    assert_eq!(host.text("/srv/kept"), "kept");
    // Its supervisor was told by systemd to end it: that is no failure.
    assert_eq!(instance::view_of(host, OTHER)["status"], "stopped");
    assert_eq!(instance::view(host)["status"], "sleeping");
    host.mvm(&["instance", "wake", &guest.path]);
    instance::booted_instead(host, TENANT);
    Outcome::Passed
}

/// A synced file is there, byte by byte; what was only written is not. A snapshot that was loaded
/// and not marked is good, whatever became of the VM that loaded it.
pub fn a_power_cut_takes_what_was_not_synced(host: &HostVm) -> Outcome {
    let guest = Guest::remember(host, TENANT);
    instance::sleep(host, &guest.path);
    hold(host, &["wake", &guest.path], "before:mark-snapshot");
    calm(host);
    host.sh("head -c 3000000 /dev/urandom >/srv/synced && sync /srv/synced /srv");
    let sum = host.sh("sha256sum /srv/synced");
    write_sector(host, "synced", "conv=notrunc,fsync");
    write_sector(host, "written", "conv=notrunc");
    host.sh("head -c 3000000 /dev/urandom >/srv/unsynced");
    host.cut_power_and_boot(PowerCut::LosesUnflushed);
    assert_eq!(host.sh("sha256sum /srv/synced"), sum);
    assert_eq!(sector(host), "synced");
    assert!(host.read("/srv/unsynced").is_none_or(|it| it.is_empty()));
    assert_eq!(instance::view(host)["status"], "sleeping");
    host.mvm(&["instance", "wake", &guest.path]);
    guest.is_as_it_was(host);
    Outcome::Passed
}

/// The same with a disk that keeps what it took. An instance whose snapshot was complete sleeps,
/// although its VM had not been ended.
pub fn a_cache_with_a_battery_keeps_it(host: &HostVm) -> Outcome {
    let guest = Guest::remember(host, TENANT);
    hold(host, &["sleep", &guest.path], "before:end-process");
    calm(host);
    write_sector(host, "synced", "conv=notrunc,fsync");
    write_sector(host, "written", "conv=notrunc");
    host.cut_power_and_boot(PowerCut::KeepsUnflushed);
    assert_eq!(sector(host), "written");
    host.mvm(&["instance", "wake", &guest.path]);
    guest.is_as_it_was(host);
    Outcome::Passed
}

/// Programs that write without end lose their power twice: what one of them had been told
/// is safe is there, and the file system is sound, whichever sectors the disk had kept. The same
/// for a guest that writes: once while it is put to sleep, once when its snapshot was just spent.
pub fn what_was_acknowledged_outlives_every_cut(host: &HostVm) -> Outcome {
    host.write("/srv/noise", 0o755, NOISE.as_bytes());
    host.write("/srv/recorder", 0o755, RECORDER.as_bytes());
    let path = instance::path(host);
    for (seed, moment) in [(1, "while it is put to sleep"), (2, "when its snapshot is spent")] {
        let guest = Guest::remember(host, TENANT);
        let safe = record_in_guest(host, &path);
        host.sh("systemd-run --unit=noise /srv/noise; systemd-run --unit=recorder /srv/recorder");
        host.eventually("records are written", WRITTEN, "test $(cat /run/acknowledged) -ge 20");
        host.sh("systemctl stop noise");
        match seed {
            1 => hold(host, &["sleep", &path], "after:save-memory"),
            _ => {
                instance::sleep(host, &path);
                hold(host, &["wake", &path], "after:mark-snapshot");
            }
        }
        let acknowledged: u32 = host.text("/run/acknowledged").parse().expect("a number");
        host.cut_power(PowerCut::KeepsSome(seed));
        host.disk_is_sound().unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        host.boot_again();
        holds(&host.text("/srv/records"), acknowledged, moment);
        let status = instance::view(host)["status"].clone();
        // What the record says of a wake that was under way: it slept, and nothing runs.
        let expected = if seed == 1 { "stopped" } else { "sleeping" };
        assert_eq!(status, expected, "{moment}");
        let verb = if status == "sleeping" { "wake" } else { "start" };
        host.mvm(&["instance", verb, &path]);
        // The memory is gone: it was not saved, or its snapshot was spent.
        assert_ne!(instance::exec(host, BOOT), guest.boot, "{moment}");
        holds(&instance::exec(host, "cat /data/records"), safe, moment);
    }
    Outcome::Passed
}

/// The records up to this one are there and whole.
fn holds(records: &str, acknowledged: u32, moment: &str) {
    let whole = (1..).zip(records.lines()).take_while(|(n, line)| *line == format!("record {n}."));
    let count = whole.count();
    assert!(count >= acknowledged as usize, "{moment}: {count} of {acknowledged}: {records}");
}

/// Lets the guest write for a while; returns how many of its records are safe.
fn record_in_guest(host: &HostVm, path: &str) -> u32 {
    host.sh("rm -f /run/safe");
    host.ok(&[
        "systemd-run",
        "--unit=guest-recorder",
        "-p",
        "StandardOutput=file:/run/safe",
        "mvm",
        "instance",
        "exec",
        path,
        "--",
        "sh",
        "-c",
        GUEST_RECORDER,
    ]);
    host.eventually("the guest writes", WRITTEN, "test $(wc -l </run/safe) -ge 5");
    // Only whole lines: the last one may still be on its way.
    let safe = host.text("/run/safe");
    safe.lines().rev().nth(1).and_then(|line| line.parse().ok()).expect("a number")
}

/// The kernel's id of a guest's boot.
const BOOT: &str = "cat /proc/sys/kernel/random/boot_id";

/// What is in a guest's memory and on its drive.
struct Guest {
    path: String,
    boot: String,
}

impl Guest {
    fn remember(host: &HostVm, tenant: &str) -> Self {
        let path = instance::path_of(host, tenant);
        instance::exec_in(host, &path, "echo memory >/run/kept; echo disk >/data/kept; sync");
        Self { boot: instance::exec_in(host, &path, BOOT), path }
    }

    /// It went on where it was.
    fn is_as_it_was(&self, host: &HostVm) {
        assert_eq!(instance::exec_in(host, &self.path, BOOT), self.boot, "it was booted anew");
        let kept = instance::exec_in(host, &self.path, "cat /run/kept /data/kept");
        assert_eq!(kept, "memory\ndisk");
    }
}

/// Begins a change of an instance and stops it at a failpoint. A disk that others keep busy may be
/// too slow for a snapshot: the change is begun again then.
fn hold(host: &HostVm, command: &[&str], failpoint: &str) {
    const HELD: &str = "grep -q '^State:.T' /proc/$(systemctl show command -P MainPID)/status";
    let setting = format!("--setenv=MVM_FAILPOINT=hold@mvm/{failpoint}#1");
    let run = ["systemd-run", "--collect", "--unit=command", &setting, "mvm", "instance"];
    for _ in 0..3 {
        host.ok(&[&run[..], command].concat());
        let or_ends = format!("{HELD} || ! systemctl is-active --quiet command");
        host.eventually("it comes to its failpoint", GUEST, &or_ends);
        if host.can(HELD) {
            return;
        }
        let said = host.sh("journalctl -b --no-pager -o cat -u command | tail -n 5");
        assert!(said.contains("the snapshot was not complete within"), "{said}");
        println!("called off: {said}");
    }
    panic!("{command:?} does not come to {failpoint}");
}

/// Nobody else flushes the disk for a while; any flush would save all that was written.
fn calm(host: &HostVm) {
    host.sh("mount -o remount,commit=300 /");
    host.sh(&format!("head -c 4096 /dev/zero >{SECTORS} && sync {SECTORS}"));
}

fn write_sector(host: &HostVm, word: &str, how: &str) {
    host.sh(&format!(
        "printf %-4096s {word} | dd of={SECTORS} bs=4096 oflag=direct {how} status=none"
    ));
}

fn sector(host: &HostVm) -> String {
    host.text(SECTORS)
}
