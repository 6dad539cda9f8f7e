use super::*;

/// A minimal ELF module: header, a section of names, a `.modinfo` section.
fn module(info: &[&str]) -> Vec<u8> {
    let names = b"\0.modinfo\0.shstrtab\0";
    let info: Vec<u8> = info.iter().flat_map(|line| [line.as_bytes(), b"\0"].concat()).collect();
    let mut bytes = vec![0u8; 64];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    let names_at = bytes.len() as u64;
    bytes.extend_from_slice(names);
    let info_at = bytes.len() as u64;
    bytes.extend_from_slice(&info);
    let table_at = bytes.len() as u64;
    let mut section = |name: u32, at: u64, size: usize| {
        let mut entry = [0u8; 64];
        entry[..4].copy_from_slice(&name.to_le_bytes());
        entry[24..32].copy_from_slice(&at.to_le_bytes());
        entry[32..40].copy_from_slice(&(size as u64).to_le_bytes());
        bytes.extend_from_slice(&entry);
    };
    section(1, info_at, info.len());
    section(10, names_at, names.len());
    bytes[40..48].copy_from_slice(&table_at.to_le_bytes());
    for (at, value) in [(58, 64u16), (60, 2), (62, 1)] {
        bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

fn tree(files: &[(&str, Vec<u8>)], builtin: &str) -> (tempfile::TempDir, ModuleTree) {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("usr/lib/modules/6.1-test");
    fs::create_dir_all(base.join("kernel/drivers")).unwrap();
    fs::write(base.join("modules.builtin"), builtin).unwrap();
    for (name, bytes) in files {
        fs::write(base.join("kernel/drivers").join(name), bytes).unwrap();
    }
    let tree = ModuleTree::open(dir.path()).unwrap();
    (dir, tree)
}

fn names(order: &[Module]) -> Vec<&str> {
    order.iter().map(|module| module.name.as_str()).collect()
}

#[test]
fn a_module_comes_after_all_it_depends_on_once() {
    let (_dir, tree) = tree(
        &[
            ("virtio_blk.ko", module(&["license=GPL", "depends=virtio,virtio-ring"])),
            ("virtio.ko", module(&["depends=virtio_ring"])),
            ("virtio-ring.ko", module(&["depends="])),
            ("erofs.ko", module(&["depends=libcrc32c"])),
            ("libcrc32c.ko", module(&["softdep=pre: crc32c post: never", "depends="])),
            ("crc32c_generic.ko", module(&["depends="])),
        ],
        "kernel/fs/ext4/ext4.ko\n",
    );
    let wanted = [required("virtio_blk"), required("ext4"), optional("erofs"), optional("absent")];
    let order = tree.order(&wanted).unwrap();
    assert_eq!(
        names(&order),
        ["virtio_ring", "virtio", "virtio_blk", "crc32c_generic", "libcrc32c", "erofs"]
    );
    assert_eq!(tree.release, "6.1-test");
}

#[test]
fn a_missing_driver_or_dependency_is_named() {
    let (_dir, tree) = tree(&[("a.ko", module(&["depends=gone"]))], "");
    let driver = tree.order(&[required("virtio_blk")]).unwrap_err().to_string();
    assert!(driver.contains("virtio_blk") && driver.contains("6.1-test"), "{driver}");
    let dependency = tree.order(&[required("a")]).unwrap_err().to_string();
    assert!(dependency.contains("gone"), "{dependency}");
}

#[test]
fn dependencies_in_a_circle_end() {
    let (_dir, tree) =
        tree(&[("a.ko", module(&["depends=b"])), ("b.ko", module(&["depends=a"]))], "");
    assert_eq!(names(&tree.order(&[required("a")]).unwrap()), ["b", "a"]);
}

#[test]
fn compressed_modules_come_out_plain() {
    let plain = module(&["depends="]);
    let packed = zstd::stream::encode_all(&plain[..], 1).unwrap();
    let (_dir, tree) = tree(&[("a.ko.zst", packed), ("b.ko.xz", b"junk".to_vec())], "");
    assert_eq!(tree.order(&[required("a")]).unwrap()[0].bytes, plain);
    assert!(tree.order(&[required("b")]).is_err());
}
