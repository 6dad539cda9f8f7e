//! Making this machine a host of mvm's: its id, its directories, the group that may talk to its
//! agent. What it needs installed, and whether it can run guests, is [`crate::bootstrap`]'s.
//!
//! Everything here is there already the second time, and then nothing changes.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use mvm_host::file;
use nix::unistd::Group;
use serde::{Deserialize, Serialize};

use crate::error::{About, Error, Kind, Result};
use crate::service::Service;

/// The group whose members may talk to the agent's socket.
pub const GROUP: &str = "mvm";
/// The run directory of a host that was not moved by the environment.
const SYSTEM_RUN: &str = "/run/mvm";

/// A machine that is a host now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Onboarded {
    /// Its id.
    pub node_id: String,
    /// Where its state is.
    pub state_dir: PathBuf,
    /// Where its configuration is.
    pub config_dir: PathBuf,
    /// Who may talk to its agent.
    pub group: Access,
}

/// Who may talk to the agent, beside root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Members of the group [`GROUP`], which was made now.
    GroupMade,
    /// Members of the group [`GROUP`].
    GroupThere,
    /// Nobody: the directories are somebody's own, and the machine's groups are left alone.
    RootOnly,
}

impl Service {
    /// Makes this machine a host: id, directories, group.
    ///
    /// # Errors
    /// When one of them cannot be made.
    pub fn onboard(&self) -> Result<Onboarded> {
        file::create_dir(&self.dirs.config).about("", "make the configuration directory")?;
        Ok(Onboarded {
            node_id: self.node_id()?,
            state_dir: self.dirs.state.clone(),
            config_dir: self.dirs.config.clone(),
            group: self.ensure_group()?,
        })
    }

    fn ensure_group(&self) -> Result<Access> {
        if Group::from_name(GROUP).is_ok_and(|group| group.is_some()) {
            return Ok(Access::GroupThere);
        }
        // Who works in directories of their own shall find /etc/group as it was.
        if self.dirs.run != std::path::Path::new(SYSTEM_RUN) {
            return Ok(Access::RootOnly);
        }
        make_group().map(|()| Access::GroupMade)
    }
}

fn make_group() -> Result<()> {
    let failed = |why: String| {
        Error::new(Kind::Failed, "", format!("cannot make the group {GROUP}: {why}"))
            .hint(format!("groupadd --system {GROUP}, then run this again"))
    };
    let output = Command::new("groupadd")
        .args(["--system", GROUP])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::service;

    #[test]
    fn a_second_time_changes_nothing_and_groups_are_left_alone() {
        let (_dir, service) = service();
        let first = service.onboard().unwrap();
        assert_ne!(first.group, Access::GroupMade);
        assert!(service.dirs.config.is_dir());
        assert_eq!(service.onboard().unwrap(), first);
    }
}
