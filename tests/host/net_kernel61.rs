//! The same tests on the kernel users have: this very test binary runs again as the only program
//! of a QEMU guest with Debian's 6.1 kernel, where a netdev chain dies with its device and bridges
//! do not call the IP firewall. Needs QEMU, busybox and the unpacked kernel package in
//! `MVM_TEST_KERNEL_DIR`; skipped otherwise.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::skip::skip;
use crate::world::missing;

const KERNEL: &str = "MVM_TEST_KERNEL_DIR";
const NAME: &str = "the_rules_hold_on_the_6_1_kernel";

/// Emulated, and a runtime linker per `nft` and `ip`: slow, but bounded.
const DEADLINE: Duration = Duration::from_secs(240);

/// What runs there. Everything that depends on the kernel; the rest is the same code.
const TESTS: [&str; 13] = [
    "spoof::",
    "isolation::nothing_crosses_between_tenants_with_egress",
    "isolation::guests_cannot_reach_the_host",
    "isolation::the_host_reaches_its_guests",
    "isolation::only_the_resolvers_port_is_open_on_the_gateway",
    "egress::internet_egress_reaches_public_addresses_only",
    "egress::no_egress_reaches_nothing",
    "egress::the_host_becomes_no_router_for_others",
    "egress::a_removed_ports_connections_are_forgotten",
    "flows::",
    "life::a_vanished_tap_is_made_again_with_its_rules",
    "life::ensuring_twice_changes_nothing",
    "life::the_document_loads_and_is_what_is_written",
];

const MODULES: [&str; 11] = [
    "nf_tables",
    "nft_connlimit",
    "nft_ct",
    "nft_limit",
    "nft_masq",
    "nft_chain_nat",
    "nf_conntrack_netlink",
    "bridge",
    "tun",
    "veth",
    "nfnetlink",
];

#[test]
fn the_rules_hold_on_the_6_1_kernel() {
    let tools = match tools() {
        Ok(tools) => tools,
        Err(reason) => return skip(NAME, &reason),
    };
    let dir = tempfile::tempdir().unwrap();
    let (initrd, console) = (dir.path().join("initrd"), dir.path().join("console"));
    std::fs::write(&initrd, archive(&tools)).unwrap();
    let mut qemu = start(&tools, &initrd, &console);
    let ended = wait(&mut qemu);
    let said = String::from_utf8_lossy(&std::fs::read(&console).unwrap()).into_owned();
    assert!(ended, "no end within {DEADLINE:?}:\n{said}");
    assert!(said.contains("MVM-TESTS-RC=0"), "{said}");
    let ran = said.lines().filter(|line| line.trim_end().ends_with("... ok")).count();
    assert!(ran >= TESTS.len(), "{said}");
    assert!(!said.contains("SKIP:"), "{said}");
}

struct Tools {
    qemu: PathBuf,
    busybox: PathBuf,
    vmlinuz: PathBuf,
    modules: Vec<PathBuf>,
    programs: Vec<PathBuf>,
}

fn tools() -> Result<Tools, String> {
    if let Some(reason) = missing() {
        return Err(reason.to_owned());
    }
    let kernel = std::env::var_os(KERNEL).map(PathBuf::from).ok_or(format!("needs {KERNEL}"))?;
    let program = |name: &str| {
        let dirs = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];
        let mut files = dirs.iter().map(|dir| Path::new(dir).join(name));
        files.find(|file| file.is_file()).ok_or(format!("needs {name}"))
    };
    let boot = std::fs::read_dir(kernel.join("boot")).map_err(|error| error.to_string())?;
    let vmlinuz = boot
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz")));
    let programs = vec![program("nft")?, program("ip")?, std::env::current_exe().unwrap()];
    Ok(Tools {
        qemu: program("qemu-system-x86_64")?,
        busybox: program("busybox")?,
        vmlinuz: vmlinuz.ok_or("no vmlinuz there")?,
        modules: in_load_order(&kernel.join("lib/modules"))?,
        programs,
    })
}

/// The modules and what they depend on, dependencies first.
fn in_load_order(root: &Path) -> Result<Vec<PathBuf>, String> {
    let all = files_below(root);
    let find = |name: &str| {
        let file = all.iter().find(|path| {
            path.file_name().unwrap().to_string_lossy().replace('-', "_") == format!("{name}.ko")
        });
        file.cloned().ok_or(format!("no module {name} there"))
    };
    let (mut ordered, mut open) = (Vec::new(), MODULES.map(str::to_owned).to_vec());
    open.reverse();
    while let Some(name) = open.last().cloned() {
        let path = find(&name)?;
        let waiting: Vec<String> = dependencies(&path)
            .into_iter()
            .filter(|other| find(other).is_ok_and(|path| !ordered.contains(&path)))
            .collect();
        if waiting.is_empty() {
            open.pop();
            if !ordered.contains(&path) {
                ordered.push(path);
            }
        }
        open.extend(waiting);
    }
    Ok(ordered)
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let paths = entries.map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// What a module says it needs, in its `.modinfo`.
fn dependencies(module: &Path) -> Vec<String> {
    let bytes = std::fs::read(module).unwrap();
    let key = b"\0depends=";
    let Some(at) = bytes.windows(key.len()).position(|window| window == key) else {
        return Vec::new();
    };
    let list = bytes[at + key.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let list = String::from_utf8_lossy(list).replace('-', "_");
    list.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Everything the programs need, as an initrd: themselves, their libraries, the modules.
fn archive(tools: &Tools) -> Vec<u8> {
    let mut initrd = Archive::default();
    for dir in ["bin", "dev", "proc", "sys", "tmp", "modules", "lib", "lib64"] {
        initrd.add(dir, 0o040_755, b"");
    }
    initrd.add("init", 0o100_755, script().as_bytes());
    initrd.add_file("bin/busybox", &tools.busybox);
    for (number, module) in tools.modules.iter().enumerate() {
        initrd.add_file(&format!("modules/{number:03}.ko"), module);
    }
    let mut libraries = BTreeSet::new();
    for program in &tools.programs {
        let name = program.file_name().unwrap().to_string_lossy();
        let name = if name.starts_with("net-") { "net-tests".into() } else { name };
        initrd.add_file(&format!("bin/{name}"), program);
        libraries.extend(libraries_of(program));
    }
    for library in libraries {
        let name = library.file_name().unwrap().to_string_lossy();
        let dir = if name.starts_with("ld-linux") { "lib64" } else { "lib" };
        initrd.add_file(&format!("{dir}/{name}"), &library);
    }
    initrd.finish()
}

fn script() -> String {
    let tests = TESTS.join(" ");
    format!(
        "#!/bin/busybox sh
export PATH=/bin LD_LIBRARY_PATH=/lib
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
ln -s /proc/self/fd /dev/fd; ln -s fd/0 /dev/stdin
for module in /modules/*.ko; do insmod $module || echo \"insmod $module failed\"; done
net-tests {tests} --test-threads=1 </dev/null
echo MVM-TESTS-RC=$?
reboot -f
"
    )
}

fn libraries_of(program: &Path) -> Vec<PathBuf> {
    let listed = Command::new("ldd").arg(program).output().unwrap().stdout;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let absolute = |line: &str| {
        let word = line.split_whitespace().find(|word| word.starts_with('/'))?;
        Some(PathBuf::from(word))
    };
    listed.lines().filter_map(absolute).collect()
}

fn start(tools: &Tools, initrd: &Path, console: &Path) -> Child {
    Command::new(&tools.qemu)
        .args(["-M", "microvm,accel=tcg", "-cpu", "max", "-m", "768", "-no-reboot"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"])
        .arg("-kernel")
        .arg(&tools.vmlinuz)
        .arg("-initrd")
        .arg(initrd)
        .arg("-append")
        .arg(format!("console=ttyS0 quiet {} panic=-1 reboot=t rdinit=/init", clock()))
        .stdin(Stdio::null())
        .stdout(File::create(console).unwrap())
        .spawn()
        .unwrap()
}

/// The time stamp counter's rate: on a busy machine the guest measures nonsense and hangs.
fn clock() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let rate = info.lines().find(|line| line.starts_with("cpu MHz"));
    let rate = rate.and_then(|line| line.split(':').nth(1)?.trim().parse::<f64>().ok());
    format!("tsc=reliable tsc_early_khz={:.0}", rate.unwrap_or(2000.0) * 1000.0)
}

/// Whether it ended by itself; killed otherwise.
fn wait(qemu: &mut Child) -> bool {
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        if qemu.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    qemu.kill().unwrap();
    qemu.wait().unwrap();
    false
}

/// An uncompressed "newc" cpio archive.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
}

impl Archive {
    fn add_file(&mut self, name: &str, path: &Path) {
        self.add(name, 0o100_755, &std::fs::read(path).unwrap());
    }

    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        let inode = self.bytes.len() as u32;
        let sizes = [content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        write!(self.bytes, "070701{inode:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}", 0, 0, 1, 0)
            .unwrap();
        for size in sizes {
            write!(self.bytes, "{size:08x}").unwrap();
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, b"");
        self.bytes
    }
}
