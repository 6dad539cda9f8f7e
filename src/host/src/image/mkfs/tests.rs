use std::sync::atomic::AtomicBool;

use super::*;

/// The same tree, made in this or the opposite order.
fn tree(dir: &Path, names: &[&str]) -> Tree {
    let tree = Tree::create(dir.join("root")).unwrap();
    for name in names {
        let bytes = name.repeat(2000);
        tree.file(&format!("usr/bin/{name}"), 0o755, bytes.as_bytes()).unwrap();
    }
    tree.dir_mode("tmp", 0o1777).unwrap();
    tree.link("bin", "usr/bin").unwrap();
    tree
}

fn images(mkfs: &Mkfs, control: Control<'_>) -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let orders = [["[", "with blank", "sh", "zz"], ["zz", "sh", "with blank", "["]];
    let images = orders.iter().enumerate().map(|(index, names)| {
        let place = dir.path().join(index.to_string());
        fs::create_dir(&place).unwrap();
        let image = place.join("rootfs");
        mkfs.write(&tree(&place, names), &image, control).unwrap();
        image
    });
    let images = images.collect();
    (dir, images)
}

#[test]
fn the_same_tree_gives_the_same_bytes_whatever_the_order_it_was_made_in() {
    let (sink, cancel) = (|_| (), AtomicBool::new(false));
    let control = Control::new(&sink, &cancel);
    for mkfs in Mkfs::detect(control) {
        let (_dir, images) = images(&mkfs, control);
        let [a, b] = [&images[0], &images[1]].map(|path| fs::read(path).unwrap());
        assert!(a == b, "{mkfs:?} wrote different bytes");
    }
}

#[test]
fn an_ext4_root_is_whole_and_holds_modes_links_and_odd_names() {
    let (sink, cancel) = (|_| (), AtomicBool::new(false));
    let control = Control::new(&sink, &cancel);
    let found = Mkfs::detect(control);
    let Some(ext4 @ Mkfs::Ext4(..)) = found.iter().find(|mkfs| mkfs.kind() == "ext4") else {
        return eprintln!("SKIP: no mke2fs here");
    };
    let (_dir, images) = images(ext4, control);
    let say = |program: &str, args: &[&str]| {
        let mut command = command(&find_program(program).unwrap().display().to_string());
        command.args(args).arg(&images[0]);
        child("looking", command, control).unwrap()
    };
    assert!(say("e2fsck", &["-fn"]).status.success());
    let list = say("debugfs", &["-R", "ls -l /usr/bin"]).stdout;
    assert!(list.contains("100755 (1)      0      0"), "{list}");
    assert!(list.contains("with blank") && list.contains(" [\n"), "{list}");
    let stat = say("debugfs", &["-R", "stat /usr/bin/sh"]).stdout;
    let times = stat.lines().filter(|line| line.contains("time: "));
    assert!(times.clone().count() >= 3 && times.clone().all(|line| line.contains("0x00000001")));
    let root = say("debugfs", &["-R", "ls -l /"]).stdout;
    assert!(root.contains("41777 (2)") && root.contains("120777 (7)"), "{root}");
}

#[test]
fn without_a_tool_the_error_says_what_the_kernel_could_mount() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("lib/modules/6.1-test");
    fs::create_dir_all(&base).unwrap();
    fs::write(base.join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").unwrap();
    let kernel = ModuleTree::open(dir.path()).unwrap();
    let erofs = Mkfs::Erofs("/usr/bin/mkfs.erofs".into(), "1.5".into());
    let error = Mkfs::choose(&[erofs], &kernel).unwrap_err();
    assert!(error.to_string().contains("6.1-test mounts ext4"), "{error}");
    assert!(error.hint().unwrap().contains("erofs-utils"));
}
