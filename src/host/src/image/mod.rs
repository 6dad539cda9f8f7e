//! Guest images: the embedded builder (no Nix) and the content-addressed store.
//!
//! Called by the agent (through `spawn_blocking`; everything here blocks) like this:
//!
//! ```text
//! let guest    = image::find_guest(Arch::HOST, control)?;    // before elevation where possible
//! let store    = image::Store::open(cache_dir)?;             // MVM_CACHE_DIR
//! let revision = image::build(&store, &Os::detect(), &Request { profile, role, .. }, control)?;
//! let files    = revision.files(Arch::HOST)?;                // kernel, vmlinux, initrd, rootfs
//! store.link_into(pool_dir, &revision.digest)?;              // artifacts/revisions/…, current
//! ```
//!
//! An unchanged rebuild finds its input key in the store's index: milliseconds, no network. The
//! same initrd serves the VMM probe (kernel command line `mvm.probe`).
//!
//! ```text
//!  distribution packages ──┐  kernel.rs   bzImage → kernel + vmlinux (ELF)
//!  (packages::Fetcher)     ├─ modules.rs  which .ko, in which order ─┐
//!                          │  guest.rs    the mvm-guest binary ──────┼─ initrd.rs (cpio.rs) → initrd
//!                          └─ rootfs.rs, profile.rs  a file tree ────┴─ mkfs.rs → rootfs
//!  npm packages (npm/) ───────────┘
//!  nix/  a flake's output ─► import/  files made elsewhere, checked ─► store
//!  build.rs, boot.rs run the steps in a temporary directory of the store
//!  store/   revisions/<digest>/ by rename; index/<input key>; lock; gc; links into pools
//! ```
//!
//! Same inputs, same digest: nothing of the clock, the umask, directory order or the host's
//! installed packages enters an image.

mod boot;
mod build;
mod cpio;
mod elf;
mod error;
mod guest;
mod import;
mod initrd;
mod inputs;
mod kernel;
mod mkfs;
mod modules;
mod nix;
mod npm;
mod own;
mod person;
mod profile;
mod rootfs;
mod store;
mod tree;
mod workload;

pub use build::{Request, build};
pub use error::ImageError;
pub use guest::{GuestBinary, GuestError, find_guest};
pub use import::{Import, import};
pub use nix::{Built, Nix, NixError, Target};
pub use npm::NpmError;
pub use own::is_own_flake;
pub use store::{BootFiles, Freed, Hold, Revision, Store};
