//! A program that is called `nix` and does what the test says, and the output it "builds": files
//! of a real image, so that a guest boots from them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::common::World;

/// What the stub does.
#[derive(Debug, Clone, Copy)]
pub enum Mode {
    /// Every attribute is there and builds.
    Builds,
    /// The same, with an output that differs by a number.
    BuildsAnother(u32),
    /// The output's root is a symbolic link.
    BuildsLink,
    /// Only `tenant-<profile>` is there.
    HasOlderAttribute,
    /// It says why not, at length.
    Fails,
    /// It never ends, and neither does a program it started.
    Hangs,
}

/// The stub, in a directory of its own.
pub struct Stub {
    dir: PathBuf,
    cache: PathBuf,
}

/// A number of seconds nobody else sleeps, to find the stub's processes by.
const HANG: &str = "86413";

/// The root of this repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

impl Stub {
    /// Writes one.
    pub fn new(world: &World, mode: Mode) -> Self {
        let stub = Self::none(world);
        let program = stub.dir.join("nix");
        fs::write(&program, stub.script(mode)).expect("a program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
        stub.fill(mode);
        stub
    }

    /// A place without a `nix`.
    pub fn none(world: &World) -> Self {
        let dir = world.path("stub");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a directory");
        let command = world.command(&[]);
        let cache = command.get_envs().find(|(name, _)| *name == "MVM_CACHE_DIR");
        let cache = cache.and_then(|(_, dir)| dir).expect("a cache directory").into();
        Self { dir, cache }
    }

    /// The search path with the stub first.
    pub fn path(&self) -> String {
        let system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        format!("{}:{system}", self.dir.display())
    }

    /// The image cache of the world.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The arguments of each call so far.
    pub fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Processes of the stub that still live.
    pub fn processes(&self) -> Vec<i32> {
        let hangs = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&format!("sleep\0{HANG}"))
        };
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(hangs).collect()
    }

    /// Where it puts what it builds.
    pub fn output(&self) -> PathBuf {
        self.dir.join("store/0c1yjzm1m3ijwp3bqnj1kbmm0vvmv4a7-stub")
    }

    /// Gives the output a profile and a role.
    pub fn name(&self, profile: &str, role: &str) {
        self.manifest(&format!(r#""profile":"{profile}","role":"{role}","#), "stub");
    }

    /// Hides the machine's own `nix` in this world's mounts; why not, where that is not done.
    pub fn hide_the_machines_own(&self) -> Result<(), String> {
        let none: Option<&str> = None;
        for place in ["/usr/bin/nix", "/usr/local/bin/nix", "/run/current-system/sw/bin/nix"] {
            if Path::new(place).exists() {
                mount(Some("/dev/null"), place, none, MsFlags::MS_BIND, none)
                    .map_err(|error| format!("cannot hide {place}: {error}"))?;
            }
        }
        let others = ["/nix/var/nix/profiles/default/bin/nix", "/root/.nix-profile/bin/nix"];
        match others.iter().find(|place| Path::new(place).exists()) {
            None => Ok(()),
            Some(place) => Err(format!("{place} is there")),
        }
    }

    fn script(&self, mode: Mode) -> String {
        let dir = self.dir.display();
        let answer =
            format!(r#"[{{"drvPath":"/x","outputs":{{"out":"{}"}}}}]"#, self.output().display());
        let build = format!(
            "printf '\\033[1mbuilding %s...\\033[0m\\n' \"'/nix/store/stub.drv'\" >&2\n\
             case \"$*\" in *--dry-run*) ;; *) echo '{answer}' ;; esac\n"
        );
        let missing =
            "echo \"error: flake 'stub' does not provide attribute 'x', 'y' or 'z'\" >&2; exit 1";
        let body = match mode {
            Mode::Builds | Mode::BuildsAnother(_) | Mode::BuildsLink => build,
            Mode::HasOlderAttribute => {
                format!("case \"$*\" in *tenant-worker-*) {missing} ;; esac\n{build}")
            }
            Mode::Fails => "echo 'warning: a warning' >&2\n\
                echo \"error: builder for '/nix/store/stub.drv' failed with exit code 2;\" >&2\n\
                for line in $(seq 60); do echo \"       > line $line\" >&2; done\nexit 1\n"
                .to_owned(),
            Mode::Hangs => format!("sleep {HANG} & sleep {HANG}\n"),
        };
        format!("#!/bin/sh\necho \"$*\" >> {dir}/calls\n{body}")
    }

    /// Files of an image of the embedded builder under the names of the output contract.
    fn fill(&self, mode: Mode) {
        let out = self.output();
        fs::create_dir_all(&out).expect("a directory");
        let image = self.an_image();
        for file in ["kernel", "vmlinux", "initrd"] {
            fs::copy(image.join(file), out.join(file)).expect("a copy");
        }
        match mode {
            Mode::BuildsLink => symlink(image.join("rootfs"), out.join("rootfs")).expect("a link"),
            _ => drop(fs::copy(image.join("rootfs"), out.join("rootfs")).expect("a copy")),
        }
        match mode {
            Mode::BuildsAnother(number) => self.manifest("", &format!("stub-{number}")),
            _ => self.manifest("", "stub"),
        }
    }

    fn manifest(&self, more: &str, release: &str) {
        let text =
            format!(r#"{{"schema_version":1,{more}"guest_proto":1,"kernel_release":"{release}"}}"#);
        fs::write(self.output().join("manifest.json"), text).expect("a manifest");
    }

    fn an_image(&self) -> PathBuf {
        let entries = fs::read_dir(self.cache.join("revisions")).expect("images were built");
        let of_embedded = |dir: &PathBuf| {
            let text = fs::read_to_string(dir.join("manifest.json")).unwrap_or_default();
            let is = |word: &str| text.contains(&format!(r#""{word}""#));
            is("embedded") && is("minimal") && is("worker")
        };
        let mut dirs = entries.flatten().map(|entry| entry.path());
        dirs.find(of_embedded).expect("a minimal image for a worker")
    }
}
