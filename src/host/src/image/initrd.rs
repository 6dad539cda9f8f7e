//! The initrd: the guest agent as `/init` and the modules it loads, nothing else.

use super::cpio::Archive;
use super::modules::Module;

/// Directories the agent mounts on before it has a root.
const DIRS: [&str; 6] = ["dev", "modules", "newroot", "proc", "run", "sys"];

/// An initrd that loads `modules` in their order (`/modules/NNN-name.ko`, read in lexical order).
pub(super) fn initrd(guest: &[u8], modules: &[Module]) -> Vec<u8> {
    let mut archive = Archive::default();
    for dir in DIRS {
        archive.dir(dir);
    }
    // PID 1 gets its standard streams from here, before anything is mounted.
    archive.char_device("dev/console", 0o600, (5, 1));
    archive.char_device("dev/null", 0o666, (1, 3));
    archive.file("init", 0o755, guest);
    for (place, module) in modules.iter().enumerate() {
        archive.file(&format!("modules/{place:03}-{}.ko", module.name), 0o644, &module.bytes);
    }
    archive.finish()
}
