//! What can go wrong with the host's network, and who holds what we wanted.

use std::fmt;
use std::io;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use mvm_model::network::BadNetwork;
use serde::Serialize;

/// Why a network operation was refused or failed. Causes are in `source()`, not in the text.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// No netlink socket: usually a sandbox or a kernel without it.
    #[error("failed to open the kernel's network interface (netlink)")]
    Open(#[source] io::Error),
    /// The kernel refused a change or a question about links, addresses or routes.
    #[error("failed to {doing} {object}")]
    Netlink {
        /// A verb phrase: `create the bridge`.
        doing: &'static str,
        /// The interface or network it was about.
        object: String,
        /// The kernel's answer.
        #[source]
        source: rtnetlink::Error,
    },
    /// The kernel did not answer within the deadline.
    #[error("the kernel did not answer in time: {doing} {object}")]
    Silent {
        /// A verb phrase.
        doing: &'static str,
        /// The interface or network it was about.
        object: String,
    },
    /// Making or opening a tap failed.
    #[error("failed to {doing} tap {name}")]
    Tap {
        /// A verb phrase.
        doing: &'static str,
        /// The tap.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `nft` is missing or could not be run.
    #[error("failed to run nft: {reason}")]
    NftMissing {
        /// What happened.
        reason: String,
    },
    /// `nft` refused; nothing of that transaction was applied.
    #[error("nft refused to {doing}: {stderr}")]
    NftRefused {
        /// A verb phrase.
        doing: String,
        /// Its first lines of complaint.
        stderr: String,
    },
    /// A kernel setting could not be read or written.
    #[error("failed to set {}", path.display())]
    Sysctl {
        /// The file below /proc/sys.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Our own notes below the run directory.
    #[error("failed to {doing} {}", path.display())]
    State {
        /// A verb phrase.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else has the name or the addresses: nothing was changed.
    #[error("{wanted} is already in use by {holder}")]
    Taken {
        /// What we wanted.
        wanted: String,
        /// Who has it.
        holder: Holder,
    },
    /// A port was asked for on a network that is not there.
    #[error("bridge {0} does not exist: the tenant's network must be set up first")]
    NoBridge(String),
    /// The request itself cannot be.
    #[error(transparent)]
    Bad(#[from] BadNetwork),
    /// What the kernel shows after a change is not what we asked for.
    #[error("{object} is not as it should be: {problem}")]
    NotAsWritten {
        /// Interface or chain.
        object: String,
        /// What differs.
        problem: String,
    },
    /// A failpoint made it fail.
    #[error(transparent)]
    Failpoint(#[from] io::Error),
    /// Another mvm process held the network lock too long.
    #[error("another mvm process is changing the network (lock {})", .0.display())]
    Busy(PathBuf),
    /// The resolver process could not be started or told.
    #[error("failed to {doing} the resolver")]
    Resolver {
        /// A verb phrase.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Root in a container or under a service manager may lack it.
const CAPABILITY: &str =
    "run it as root with the capability CAP_NET_ADMIN; 'mvm doctor' says whether we have it";

impl NetError {
    /// Whether the kernel says that we may not.
    fn is_denied(&self) -> bool {
        match self {
            Self::Netlink { source: rtnetlink::Error::NetlinkError(message), .. } => {
                matches!(message.to_io().kind(), io::ErrorKind::PermissionDenied)
            }
            Self::NftRefused { stderr, .. } => stderr.contains("Operation not permitted"),
            Self::Sysctl { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            _ => false,
        }
    }

    /// What a person can do about it, where there is something.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NftMissing { .. } => Some("install the package nftables"),
            Self::Taken { .. } => {
                Some("choose another --net-id and --subnet, or remove the holder")
            }
            Self::Open(_) | Self::Tap { .. } => Some(CAPABILITY),
            _ if self.is_denied() => Some(CAPABILITY),
            Self::Busy(_) => Some("try again when the other command is done"),
            _ => None,
        }
    }
}

/// Who holds a name or a range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Holder {
    /// An interface of that name that is not ours.
    Interface {
        /// Its name.
        name: String,
        /// Its alias, when it has one: another mvm says `mvm:<node>:…`.
        alias: Option<String>,
    },
    /// An address on an interface.
    Address {
        /// The interface.
        interface: String,
        /// The address with its prefix.
        address: Ipv4Net,
    },
    /// A route.
    Route {
        /// Where it leads, when by an interface.
        interface: Option<String>,
        /// What it covers.
        destination: Ipv4Net,
    },
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface { name, alias: None } => write!(f, "interface {name} (not mvm's)"),
            Self::Interface { name, alias: Some(alias) } => write!(f, "interface {name} ({alias})"),
            Self::Address { interface, address } => write!(f, "address {address} on {interface}"),
            Self::Route { interface: Some(interface), destination } => {
                write!(f, "the route to {destination} by {interface}")
            }
            Self::Route { interface: None, destination } => write!(f, "the route to {destination}"),
        }
    }
}
