//! Programs that must not outlive us: what `nft` or a build changes after whoever started it was
//! killed would come behind the back of whoever holds its lock next.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

/// Has a program killed when we end. The *thread* that starts it is what counts: it must not end
/// before the program does.
pub(crate) fn ends_with_us(command: &mut Command) {
    let us = Pid::this();
    let bind = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // Whoever ended before that is told to nobody.
        if getppid() == us { Ok(()) } else { Err(io::Error::from(Errno::ESRCH)) }
    };
    // SAFETY: both system calls are async-signal-safe, and nothing is touched but the new process.
    unsafe { command.pre_exec(bind) };
}
