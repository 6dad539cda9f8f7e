//! A `nix` that sees nothing of the machine's: its store, state, configuration and home are in a
//! directory that vanishes with it. It works as root without a daemon, and as a user.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Everything here takes well under a second; a `nix` that waits for a network never ends.
const DEADLINE: Duration = Duration::from_secs(60);

/// What the flake reads when neither package is built.
const FLAKE: [&str; 5] = ["flake.nix", "flake.lock", "images", "nixos", "tests/nixos"];

const CONFIG: &str = "\
experimental-features = nix-command flakes
build-users-group =
substituters =
flake-registry =
warn-dirty = false
";

/// The root of this repository.
pub fn repository() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().expect("the repository is there")
}

/// A Nix of a test's own, with a copy of the flake.
pub struct Nix {
    dir: TempDir,
}

impl Nix {
    /// Prepares one; the reason when this machine has no `nix`.
    pub fn find() -> Result<Self, String> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let nix = Self { dir };
        fs::create_dir(nix.root().join("home")).expect("a home");
        for part in FLAKE {
            copy(&repository().join(part), &nix.flake_dir().join(part));
        }
        let mut version = nix.command();
        version.arg("--version");
        match finish(version)? {
            output if output.status.success() => Ok(nix),
            output => Err(format!("nix --version fails: {}", output.status)),
        }
    }

    /// The Intent of a fleet in a file, or what Nix says against it.
    pub fn fleet(&self, file: &Path) -> Result<serde_json::Value, String> {
        self.apply_to("lib.fleet", file)
    }

    /// The document of a fleet in a file, whether it is good or not.
    pub fn unchecked(&self, file: &Path) -> Result<serde_json::Value, String> {
        self.apply_to("lib.fleetUnchecked", file)
    }

    fn apply_to(&self, function: &str, file: &Path) -> Result<serde_json::Value, String> {
        let apply = format!("f: f (import {})", file.display());
        // Impure only because the fleet lies outside the flake.
        self.eval(&["--impure", &self.output(function), "--apply", &apply])
    }

    /// An output of the flake, seen through a function.
    pub fn flake(&self, attribute: &str, apply: &str) -> Result<serde_json::Value, String> {
        self.eval(&[&self.output(attribute), "--apply", apply])
    }

    /// The Intent of a fleet that another flake declares, with ours as its input.
    pub fn as_input(&self, fleet: &str) -> Result<serde_json::Value, String> {
        let theirs = self.root().join("theirs");
        fs::create_dir_all(&theirs).expect("a flake of somebody else");
        copy(&repository().join(fleet), &theirs.join("fleet.nix"));
        let text = format!(
            "{{ inputs.mvm.url = \"path:{}\"; outputs = {{ mvm, ... }}: \
             {{ fleet = mvm.lib.fleet (import ./fleet.nix); }}; }}",
            self.flake_dir().display()
        );
        fs::write(theirs.join("flake.nix"), text).expect("a flake is written");
        self.eval(&[&format!("path:{}#fleet", theirs.display())])
    }

    fn eval(&self, arguments: &[&str]) -> Result<serde_json::Value, String> {
        let mut command = self.command();
        command.args(["eval", "--offline", "--json"]).args(arguments);
        let output = finish(command)?;
        if output.status.success() {
            serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    fn command(&self) -> Command {
        let root = self.root();
        let mut command = Command::new("nix");
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", root.join("home")).env("NIX_CONFIG", CONFIG);
        for (variable, place) in [
            ("NIX_STORE_DIR", "nix/store"),
            ("NIX_STATE_DIR", "nix/var/nix"),
            ("NIX_LOCALSTATE_DIR", "nix/var"),
            ("NIX_LOG_DIR", "nix/var/log/nix"),
            ("NIX_DATA_DIR", "nix/share"),
            ("NIX_CONF_DIR", "nix/etc"),
            ("TMPDIR", "home"),
        ] {
            command.env(variable, root.join(place));
        }
        command
    }

    fn output(&self, attribute: &str) -> String {
        format!("path:{}#{attribute}", self.flake_dir().display())
    }

    fn flake_dir(&self) -> PathBuf {
        self.root().join("flake")
    }

    /// Without symlinks, which a store directory may not have.
    fn root(&self) -> PathBuf {
        self.dir.path().canonicalize().expect("the temporary directory is there")
    }
}

/// A store is read-only, and only root can remove what is in it as it is.
impl Drop for Nix {
    fn drop(&mut self) {
        make_writable(&self.dir.path().join("nix/store"));
    }
}

fn make_writable(dir: &Path) {
    // What fails here stays behind in the temporary directory; no verdict depends on it.
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_writable(&entry.path());
        }
    }
}

/// Waits for a command until the deadline, then ends it with all it started.
fn finish(mut command: Command) -> Result<std::process::Output, String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = command.spawn().map_err(|error| format!("needs nix ({error})"))?;
    let group = Pid::from_raw(child.id().try_into().expect("a process id"));
    let (sender, receiver) = mpsc::channel();
    let waiter = thread::spawn(move || sender.send(child.wait_with_output()));
    let output = receiver.recv_timeout(DEADLINE).unwrap_or_else(|_| {
        killpg(group, Signal::SIGKILL).expect("the hanging nix is ours");
        panic!("nix did not end within {DEADLINE:?}: {command:?}")
    });
    waiter.join().expect("the waiter ends").expect("somebody listens");
    output.map_err(|error| format!("nix cannot be waited for: {error}"))
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).expect("a directory is made");
        for entry in fs::read_dir(from).expect("a readable directory") {
            let entry = entry.expect("a readable directory");
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::create_dir_all(to.parent().expect("a parent")).expect("a directory is made");
        fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }
}
