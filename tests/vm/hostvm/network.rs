//! A guest that sends what it likes, on Debian's 6.1 kernel: nothing of it gets past its own tap
//! but what is its own. And two tenants' VMs side by side, of which one's end is not the other's.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::common::Outcome;
use crate::hostvm::HostVm;
use crate::instance::{self, GUEST, TENANT};

/// A tenant whose name begins like the other's.
pub const OTHER: &str = "prod-b";
const OTHER_POOL: &str = "prod-b/web";
/// The guest's perl, with the linker and the libraries it needs: an image has none.
const PERL: &str = "/tmp/perl/ld.so --library-path /tmp/perl /tmp/perl/perl";
/// How long the frames may take.
const FRAMES: Duration = Duration::from_secs(30);

/// What a frame is, the number in it, and whether it may get past the tap.
const ATTACK: [(&str, &str); 15] = [
    ("honest IPv4", "$gw . $me . ip($mine, $gate, udp(9000, 9001, $m))"),
    ("another MAC", "$gw . $else . ip($mine, $gate, udp(9000, 9001, $m))"),
    ("the gateway's MAC", "$gw . $gw . ip($mine, $gate, udp(9000, 9001, $m))"),
    ("a neighbour's address", "$gw . $me . ip(addr(1, 77), $gate, udp(9000, 9001, $m))"),
    ("the gateway's address", "$all . $me . ip($gate, addr(1, 255), udp(9000, 9001, $m))"),
    ("another tenant's address", "$gw . $me . ip(addr(2, 3), addr(2, 4), udp(9000, 9001, $m))"),
    ("ARP as the gateway", "$all . $me . arp($me, $gate, $mine) . $m"),
    ("ARP with another MAC", "$all . $me . arp($else, $mine, $gate) . $m"),
    ("an IPv6 router", "pack('H*', '333300000001') . $me . pack('H*', '86dd') . v6($m)"),
    ("a VLAN tag", "$gw . $me . pack('H*', '81000005') . ip($mine, $gate, udp(9, 9, $m))"),
    ("two VLAN tags", "$gw . $me . pack('H*', '88a80005') . ip($mine, $gate, udp(9, 9, $m))"),
    ("a spanning tree", "pack('H*', '0180c2000000') . $me . pack('H*', '0026424203') . $m"),
    ("a DHCP server", "$all . $me . ip($mine, pack('C4', 255, 255, 255, 255), udp(67, 68, $m))"),
    (
        "the metadata service",
        "$gw . $me . ip($mine, pack('C4', 169, 254, 169, 254), udp(9, 80, $m))",
    ),
    ("another tenant's guest", "$gw . $me . ip($mine, addr(2, 3), udp(9000, 9001, $m))"),
];
/// Frames that are the guest's own: the first and the last, which the host then refuses to route.
const OWN: [usize; 2] = [0, ATTACK.len() - 1];

/// Builds frames and sends each three times.
const ATTACKER: &str = r#"
my $me = pack('H*', '026d00010003'); my $gw = pack('H*', '026d00010001');
my $else = pack('H*', '026d00010099'); my $all = pack('H*', 'ffffffffffff');
sub addr { pack('C4', 10, 240, @_) }
my ($mine, $gate) = (addr(1, 3), addr(1, 1));
sub sum { my $s = 0; $s += $_ for unpack('n*', $_[0]); $s = ($s & 0xffff) + ($s >> 16) while $s >> 16; ~$s & 0xffff }
sub ip { my ($from, $to, $body) = @_;
  my $head = pack('CCnnnCCna4a4', 0x45, 0, 20 + length $body, 1, 0, 64, 17, 0, $from, $to);
  substr($head, 10, 2) = pack('n', sum($head)); pack('n', 0x800) . $head . $body }
sub udp { my ($from, $to, $body) = @_; pack('nnnn', $from, $to, 8 + length $body, 0) . $body }
sub arp { my ($mac, $from, $to) = @_;
  pack('nnnCCna6a4a6a4', 0x806, 1, 0x800, 6, 4, 2, $mac, $from, "\0" x 6, $to) }
sub v6 { my $body = pack('CCnCCnNN', 134, 0, 0, 64, 0, 1800, 0, 0) . $_[0];
  pack('NnCCa16a16', 0x60000000, length $body, 58, 255, pack('H*', 'fe80' . '0' x 27 . '1'), pack('H*', 'ff02' . '0' x 27 . '1')) . $body }
open my $index, '<', '/sys/class/net/eth0/ifindex' or die; my $to = pack('SnlSCCa8', 17, 3, <$index>, 0, 0, 6, $gw);
socket(my $out, 17, 3, 0x300) or die "no raw socket: $!";
my $n = 0;
for my $make (FRAMES) { my $m = sprintf('MVM-FRAME-%02d-', $n++) . '.' x 40;
  for (1 .. 3) { send($out, $make->($m), 0, $to) or die "frame $n: $!"; } }
"#;

/// Writes down which frame was seen on which interface, until it is told to stop.
const SNIFFER: &str = r#"
socket(my $in, 17, 3, 0x300) or die "no raw socket: $!"; my ($stop, %seen) = (0); $SIG{TERM} = sub { $stop = 1 };
my %name; for (glob '/sys/class/net/*/ifindex') { open my $f, '<', $_; my ($n) = m{net/(.*)/}; $name{<$f> + 0} = $n }
open my $ready, '>', '/run/sniffing'; close $ready;
until ($stop) { my $bits = ''; vec($bits, fileno($in), 1) = 1; next if select($bits, undef, undef, 0.1) < 1;
  my $from = recv($in, my $frame, 2000, 0) // next;
  $seen{"$name{unpack('x4l', $from)} $1"} = 1 if $frame =~ /MVM-FRAME-(\d\d)-/ }
open my $out, '>', '/run/sniffed'; print $out "$_\n" for sort keys %seen; close $out;
"#;

/// A second tenant's VM, beside the first's.
pub fn two_tenants_run_side_by_side(host: &HostVm) -> Outcome {
    instance::create(host, OTHER, OTHER_POOL);
    let path = instance::path_of(host, OTHER);
    host.mvm(&["instance", "start", &path]);
    assert_eq!(instance::exec_in(host, &path, "echo beside"), "beside");
    assert_eq!(instance::exec(host, "echo first"), "first");
    Outcome::Passed
}

/// Only its own frames leave its tap, and none of them reaches another tenant; each drop is
/// counted where the rule says why.
pub fn forged_frames_end_at_the_tap(host: &HostVm) -> Outcome {
    let path = instance::path(host);
    // What this attack is written for.
    assert_eq!(instance::view(host)["tap_dev"], "tn1i3");
    assert_eq!(instance::view_of(host, OTHER)["tap_dev"], "tn2i3");
    bring_perl(host, &path);
    host.write("/run/sniffer", 0o644, SNIFFER.as_bytes());
    let frames: Vec<_> =
        ATTACK.iter().map(|(_, frame)| format!("sub {{ my $m = shift; {frame} }}")).collect();
    host.write("/run/attacker", 0o644, ATTACKER.replace("FRAMES", &frames.join(",")).as_bytes());
    host.mvm(&["instance", "cp", "/run/attacker", &format!("{path}:/tmp/attacker")]);
    let rules = || host.sh("nft list chain netdev mvm tn1i3");
    let before = rules();

    host.sh("systemd-run --unit=sniffer perl /run/sniffer");
    host.eventually("it listens", FRAMES, "test -e /run/sniffing");
    instance::exec(host, &format!("{PERL} /tmp/attacker"));
    host.sh("systemctl stop sniffer");
    let seen = host.text("/run/sniffed");
    let on = |wanted: &dyn Fn(&str) -> bool| -> BTreeSet<usize> {
        let lines = seen.lines().filter_map(|line| line.split_once(' '));
        lines.filter(|(name, _)| wanted(name)).filter_map(|(_, n)| n.parse().ok()).collect()
    };
    let all: BTreeSet<_> = (0..ATTACK.len()).collect();
    assert_eq!(on(&|name| name == "tn1i3"), all, "not all were sent: {seen}");
    assert_eq!(on(&|name| name == "br-tenant-1"), OWN.into(), "{ATTACK:?}\n{seen}");
    assert!(on(&|name| !["tn1i3", "br-tenant-1"].contains(&name)).is_empty(), "{seen}");
    let after = rules();
    for reason in [
        "forged MAC",
        "forged ARP",
        "neither ARP nor IPv4",
        "forged IPv4 source",
        "link-local",
        "DHCP server",
    ] {
        assert!(counted(&after, reason) > counted(&before, reason), "{reason}: {after}");
    }
    // It is still served, as is its neighbour.
    assert_eq!(instance::exec(host, "echo still"), "still");
    assert!(host.mvm(&["net", "verify"]).contains("ok") || host.can("mvm net verify"));
    Outcome::Passed
}

/// A snapshot of another processor is not resumed: the instance boots from its drives.
pub fn a_snapshot_of_another_processor_is_not_resumed(host: &HostVm) -> Outcome {
    let path = instance::path_of(host, OTHER);
    instance::exec_in(host, &path, "echo disk >/data/kept; sync; echo memory >/run/kept");
    instance::sleep_elsewhere(host, &path, "cpu_class", "another");
    host.mvm(&["instance", "wake", &path]);
    instance::booted_instead(host, OTHER);
    Outcome::Passed
}

/// A minute after it began a VM is where it was put: systemd moves nothing.
pub fn a_minute_later_all_is_in_its_place(host: &HostVm) -> Outcome {
    let pid = instance::view(host)["pid"].to_string();
    let old = format!("test $(ps -o etimes= -p {pid}) -ge 60");
    host.eventually("it is a minute old", GUEST, &old);
    let (unit, group) = (instance::unit_of(host, TENANT), instance::group_of(host, TENANT));
    assert_eq!(host.sh(&format!("systemctl show {unit} -P MainPID")), pid);
    assert_eq!(host.text(&format!("/proc/{pid}/cgroup")), format!("0::{group}"));
    let limit = host.text(&format!("/sys/fs/cgroup{group}/memory.max"));
    assert_eq!(limit, instance::MEMORY_MAX.to_string());
    Outcome::Passed
}

/// Names have dashes, slices have numbers.
pub fn a_stopped_slice_takes_nobody_elses_vm(host: &HostVm) -> Outcome {
    let slice = instance::group_of(host, TENANT);
    let slice = slice.rsplit('/').nth(1).unwrap_or_default().to_owned();
    let other = instance::view_of(host, OTHER)["pid"].clone();
    host.sh(&format!("systemctl stop {slice}"));
    host.eventually("its end is known", GUEST, "mvm instance list | grep -q Stopped");
    assert_eq!(instance::view(host)["status"], "stopped");
    assert_eq!(instance::view_of(host, OTHER)["pid"], other);
    let path = instance::path_of(host, OTHER);
    assert_eq!(instance::exec_in(host, &path, "echo untouched"), "untouched");
    host.mvm(&["instance", "start", &instance::path(host)]);
    assert_eq!(instance::exec(host, "echo again"), "again");
    Outcome::Passed
}

fn bring_perl(host: &HostVm, path: &str) {
    instance::exec(host, "mkdir -p /tmp/perl");
    let libraries = host.sh("ldd /usr/bin/perl | grep -o '/[^ ]*'");
    for library in libraries.lines() {
        let name = library.rsplit('/').next().unwrap_or_default();
        let name = if name.starts_with("ld-linux") { "ld.so" } else { name };
        host.mvm(&["instance", "cp", library, &format!("{path}:/tmp/perl/{name}")]);
    }
    host.mvm(&["instance", "cp", "/usr/bin/perl", &format!("{path}:/tmp/perl/perl")]);
    instance::exec(host, "chmod 755 /tmp/perl/*");
}

/// Packets a rule counted.
fn counted(rules: &str, reason: &str) -> u64 {
    let rule = rules.lines().find(|line| line.contains(&format!("comment \"{reason}")));
    let count = rule.and_then(|rule| rule.split("packets ").nth(1)?.split(' ').next());
    count.and_then(|count| count.parse().ok()).unwrap_or_default()
}
