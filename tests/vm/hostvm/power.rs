//! What is left after a reboot and after a power cut: the promises of the fixture that tests of
//! durability build on.

use std::time::Duration;

use crate::common::Outcome;
use crate::hostvm::{HostVm, PowerCut};

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

/// The disk is the same, the boot is another.
pub fn a_reboot_is_another_boot(host: &HostVm) -> Outcome {
    let (boot, machine) = (host.boot_id(), host.text("/etc/machine-id"));
    host.write("/srv/kept", 0o600, b"kept");
    host.reboot();
    assert_ne!(host.boot_id(), boot);
    assert_eq!(host.text("/etc/machine-id"), machine);
    assert_eq!(host.text("/srv/kept"), "kept");
    Outcome::Passed
}

/// A synced file is there, byte by byte; what was only written is not.
pub fn a_power_cut_takes_what_was_not_synced(host: &HostVm) -> Outcome {
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
    Outcome::Passed
}

/// The same with a disk that keeps what it took.
pub fn a_cache_with_a_battery_keeps_it(host: &HostVm) -> Outcome {
    calm(host);
    write_sector(host, "synced", "conv=notrunc,fsync");
    write_sector(host, "written", "conv=notrunc");
    host.cut_power_and_boot(PowerCut::KeepsUnflushed);
    assert_eq!(sector(host), "written");
    Outcome::Passed
}

/// Programs that write without end lose their power twice: what one of them had been told
/// is safe is there, and the file system is sound, whichever sectors the disk had kept.
pub fn what_was_acknowledged_outlives_every_cut(host: &HostVm) -> Outcome {
    host.write("/srv/noise", 0o755, NOISE.as_bytes());
    host.write("/srv/recorder", 0o755, RECORDER.as_bytes());
    for seed in [1, 2] {
        host.sh("systemd-run --unit=noise /srv/noise; systemd-run --unit=recorder /srv/recorder");
        host.eventually("records are written", WRITTEN, "test $(cat /run/acknowledged) -ge 20");
        let acknowledged: u32 = host.text("/run/acknowledged").parse().expect("a number");
        host.cut_power(PowerCut::KeepsSome(seed));
        host.disk_is_sound().unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        host.boot_again();
        let records = host.text("/srv/records");
        let whole =
            (1..).zip(records.lines()).take_while(|(n, line)| *line == format!("record {n}."));
        assert!(whole.count() >= acknowledged as usize, "seed {seed}, {acknowledged}: {records}");
    }
    Outcome::Passed
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
