//! Starting programs: who they run as, what they see, in a session of their own.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use mvm_guest_proto::message::{ErrorKind, Failure};

use crate::user::{self, User};

/// Where programs are looked for.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// Whether a program controls a terminal, which is then its standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Terminal {
    Controlling,
    None,
}

/// A program to start.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    /// Program and arguments.
    pub(crate) argv: &'a [String],
    /// Environment besides the guest's own.
    pub(crate) env: &'a BTreeMap<String, String>,
    /// Working directory; the user's home when `None`.
    pub(crate) cwd: Option<&'a str>,
    /// Who it runs as.
    pub(crate) user: &'a User,
    pub(crate) terminal: Terminal,
}

/// What happens between `fork` and `exec`, prepared so that nothing is allocated there.
struct Entry {
    cwd: CString,
    uid: libc::uid_t,
    gid: libc::gid_t,
    groups: Vec<libc::gid_t>,
    terminal: Terminal,
}

impl Program<'_> {
    /// The command that starts it; its standard streams are left to the caller.
    ///
    /// # Errors
    /// `Invalid` when it cannot be said to the kernel (no argv, a NUL).
    pub(crate) fn command(&self) -> Result<Command, Failure> {
        let invalid = |what: &str| Failure::new(ErrorKind::Invalid, what);
        let (program, arguments) =
            self.argv.split_first().ok_or_else(|| invalid("there is no program to run"))?;
        let mut words = self.argv.iter().chain(self.env.keys()).chain(self.env.values());
        if program.is_empty() || words.any(|word| word.contains('\0')) {
            return Err(invalid("the program or its environment is malformed"));
        }
        if self.env.keys().any(|name| name.is_empty() || name.contains('=')) {
            return Err(invalid("a variable's name is malformed"));
        }
        let entry = Entry {
            cwd: CString::new(self.directory()).map_err(|_| invalid("the directory has a NUL"))?,
            uid: self.user.uid,
            gid: self.user.gid,
            groups: self.user.groups.clone(),
            terminal: self.terminal,
        };
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(self.environment()).envs(self.env);
        // SAFETY: `enter` only makes system calls on values prepared before the fork.
        unsafe { command.pre_exec(move || entry.enter()) };
        Ok(command)
    }

    fn directory(&self) -> &str {
        match self.cwd {
            Some(cwd) => cwd,
            None if Path::new(&self.user.home).is_dir() => &self.user.home,
            None => "/",
        }
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let mut environment = vec![
            ("PATH", PATH.to_owned()),
            ("HOME", self.user.home.clone()),
            ("USER", self.user.name.clone()),
            ("LOGNAME", self.user.name.clone()),
            ("SHELL", self.user.shell.clone()),
        ];
        if self.terminal == Terminal::Controlling {
            environment.push(("TERM", "xterm-256color".to_owned()));
        }
        environment
    }

    /// Why it could not be started.
    pub(crate) fn failure(&self, error: &io::Error) -> Failure {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied => ErrorKind::Refused,
            _ => ErrorKind::Failed,
        };
        let program = self.argv.first().map_or("", String::as_str);
        let what = match self.cwd {
            Some(cwd) if !Path::new(cwd).is_dir() => format!("cannot enter {cwd:?}"),
            _ => format!("cannot run {program:?}"),
        };
        Failure::new(kind, format!("{what}: {}", crate::sys::describe(error)))
    }
}

impl Entry {
    /// Runs in the child. Only system calls.
    fn enter(&self) -> io::Result<()> {
        let check = |outcome: libc::c_int| match outcome {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        };
        // SAFETY: plain system calls on values that live in `self`; the signal set is valid
        // once emptied.
        unsafe {
            // What we, or who started us, ignore is not to be ignored there: ^C must work.
            for signal in 1..=31 {
                libc::signal(signal, libc::SIG_DFL);
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            check(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()))?;
            check(libc::setsid())?;
            if self.terminal == Terminal::Controlling {
                check(libc::ioctl(0, libc::TIOCSCTTY as _, 0))?;
            }
            if libc::geteuid() == 0 {
                check(libc::setgroups(self.groups.len() as _, self.groups.as_ptr()))?;
                check(libc::setresgid(self.gid, self.gid, self.gid))?;
                check(libc::setresuid(self.uid, self.uid, self.uid))?;
            } else if libc::geteuid() != self.uid {
                return Err(io::Error::from_raw_os_error(libc::EPERM));
            }
            check(libc::chdir(self.cwd.as_ptr()))
        }
    }
}

/// The user a request names; without a name root, or whoever the agent runs as.
///
/// # Errors
/// `NotFound`.
pub(crate) fn user(who: Option<&str>) -> Result<User, Failure> {
    let own = nix::unistd::geteuid();
    match who {
        None if !own.is_root() => user::find(Some(&own.to_string())),
        who => user::find(who),
    }
}
