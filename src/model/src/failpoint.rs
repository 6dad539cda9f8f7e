//! Failpoints: every change mvm makes to a host, by name, with a place before and after it where
//! a test can make it fail.
//!
//! ```text
//! whoever changes something ── before(Effect) ─▶ the change ─▶ after(Effect)
//!                                   └────── hook ──────┘
//!                       an error, a panic, the process killed
//! ```
//!
//! An effect is one change of the host: a file written, a tap made, a process started. The same
//! effect happens in many transitions; a test goes through all places it happens at, in each. The
//! hook is installed by the agent, from the environment, in debug builds; in a release build there
//! is no hook and both functions do nothing.

use std::fmt;
use std::io;
use std::str::FromStr;

macro_rules! effects {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal),+ $(,)?) => {
        /// A change of the host.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Effect {
            $($(#[doc = $doc])+ $name),+
        }

        impl Effect {
            /// All there are.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Its word.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word),+ }
            }
        }
    };
}

effects! {
    /// A file is written beside the one it will replace, and synced.
    WriteFile = "write-file",
    /// A file or directory gets its name, and that is synced.
    RenameFile = "rename-file",
    /// A file is removed.
    RemoveFile = "remove-file",
    /// A directory is removed with what it holds.
    RemoveDir = "remove-dir",
    /// A file system is made in a drive's file.
    FormatDrive = "format-drive",
    /// A data drive's file gets longer.
    GrowDrive = "grow-drive",
    /// A drive's content is replaced in place.
    OverwriteDrive = "overwrite-drive",
    /// A snapshot is marked as used.
    MarkSnapshot = "mark-snapshot",
    /// A tmpfs for secrets is mounted.
    MountSecrets = "mount-secrets",
    /// The tmpfs for secrets is unmounted.
    UnmountSecrets = "unmount-secrets",
    /// An image's files are linked into a pool.
    LinkImage = "link-image",
    /// A pool's `current` is pointed at an image.
    PointImage = "point-image",
    /// A line is appended to the audit log.
    WriteAudit = "write-audit",
    /// A link, its settings or its addresses are changed by netlink.
    ChangeLink = "change-link",
    /// A tap is made.
    MakeTap = "make-tap",
    /// A tap is made to outlive whoever made it.
    KeepTap = "keep-tap",
    /// A transaction of firewall rules is committed.
    ApplyRules = "apply-rules",
    /// A kernel setting is written.
    SetSysctl = "set-sysctl",
    /// The resolver is started.
    StartResolver = "start-resolver",
    /// The resolver is told something.
    TellResolver = "tell-resolver",
    /// A VM's supervisor is started and reports.
    StartSupervisor = "start-supervisor",
    /// A jail is made.
    MakeJail = "make-jail",
    /// A jail is removed.
    RemoveJail = "remove-jail",
    /// The VMM is started.
    StartVmm = "start-vmm",
    /// The VMM is written down.
    RecordVmm = "record-vmm",
    /// The VMM is told what to be and, when it boots, to begin.
    SetUpVmm = "set-up-vmm",
    /// A VM's processes are ended.
    EndProcess = "end-process",
    /// The vCPUs are paused.
    PauseVm = "pause-vm",
    /// The vCPUs execute.
    ResumeVm = "resume-vm",
    /// Memory and devices are written.
    SaveMemory = "save-memory",
    /// Memory and devices are loaded.
    LoadMemory = "load-memory",
    /// The guest is waited for.
    AwaitGuest = "await-guest",
    /// The guest gets ready to sleep.
    PrepareGuest = "prepare-guest",
    /// The guest is told that it woke.
    WakeGuest = "wake-guest",
    /// The guest unmounts its secrets.
    ReleaseSecrets = "release-secrets",
    /// The guest mounts its secrets.
    GiveSecrets = "give-secrets",
    /// The guest turns itself off.
    PowerOff = "power-off",
}

/// Which side of an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Moment {
    /// It has not happened.
    Before,
    /// It has.
    After,
}

/// A place where something can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Failpoint {
    /// What happens there.
    pub effect: Effect,
    /// Before or after that.
    pub moment: Moment,
}

impl Failpoint {
    /// All there are.
    pub fn all() -> impl Iterator<Item = Self> {
        let both = [Moment::Before, Moment::After];
        let of = move |effect: &Effect| both.map(|moment| Self { effect: *effect, moment });
        Effect::ALL.iter().flat_map(of)
    }
}

impl fmt::Display for Failpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = match self.moment {
            Moment::Before => "before",
            Moment::After => "after",
        };
        write!(f, "{moment}:{}", self.effect.word())
    }
}

impl FromStr for Failpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::all().find(|failpoint| failpoint.to_string() == text);
        named.ok_or_else(|| format!("there is no failpoint {text}"))
    }
}

/// What is called at every failpoint.
pub type Hook = fn(Failpoint) -> io::Result<()>;

#[cfg(debug_assertions)]
static HOOK: std::sync::OnceLock<Hook> = std::sync::OnceLock::new();

/// Calls `hook` at every failpoint of this process from now on; the first one stays.
#[cfg(debug_assertions)]
pub fn install(hook: Hook) {
    let _ = HOOK.set(hook);
}

/// The failpoint before an effect.
///
/// # Errors
/// What a test wants.
#[inline]
pub fn before(effect: Effect) -> io::Result<()> {
    at(effect, Moment::Before)
}

/// The failpoint after an effect: it happened, whatever this says.
///
/// # Errors
/// What a test wants.
#[inline]
pub fn after(effect: Effect) -> io::Result<()> {
    at(effect, Moment::After)
}

#[cfg(debug_assertions)]
fn at(effect: Effect, moment: Moment) -> io::Result<()> {
    HOOK.get().map_or(Ok(()), |hook| hook(Failpoint { effect, moment }))
}

#[cfg(not(debug_assertions))]
#[inline]
fn at(_: Effect, _: Moment) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failpoint_has_a_name_of_its_own() {
        let all: Vec<_> = Failpoint::all().collect();
        assert_eq!(all.len(), 2 * Effect::ALL.len());
        for failpoint in all {
            assert_eq!(failpoint.to_string().parse(), Ok(failpoint));
        }
        assert!("before:nothing".parse::<Failpoint>().is_err());
    }
}
