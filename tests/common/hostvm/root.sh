#!/usr/bin/env bash
# The host VM's system: Debian with systemd, a 6.1 kernel with KVM, and a channel for the tests.
#
#   tests/common/hostvm/root.sh KERNEL OUT
#
# KERNEL is the unpacked package linux-image-*-cloud-amd64 that guests boot too. Makes, once for
# every digest of this file and of the kernel's name, the directory OUT/<digest> with
#
#   tree/     the root, as files (owners and modes as in the machine)
#   vmlinuz   its kernel
#   initrd    loads the disk's driver and goes to the root; nothing else
#
# and prints its path. What is under test is not in it: that is added when an image is made of it
# (image.rs). Needs root, mmdebstrap and, the first time, Debian's packages.
set -euo pipefail

kernel=$1 out=$2
release=$(ls "$kernel/lib/modules")
digest=$({ cat "$0"; echo "$(basename "$kernel")"; } | sha256sum | cut -c1-16)
made=$out/$digest
[ -d "$made" ] && { touch "$made"; echo "$made"; exit 0; }

for wanted in /usr/bin/mmdebstrap /usr/share/keyrings/debian-archive-keyring.gpg; do
  [ -e "$wanted" ] || { echo "$wanted is missing" >&2; exit 1; }
done

packages=systemd,systemd-sysv,dbus,udev,kmod,apt,nftables,iproute2,e2fsprogs,erofs-utils,procps,busybox-static

# What a machine of its own has beside packages.
settings() {
  local tree=$1
  echo mvm-host > "$tree/etc/hostname"
  printf '127.0.0.1 localhost mvm-host\n' > "$tree/etc/hosts"
  printf '/dev/vda / ext4 rw,errors=remount-ro 0 1\n' > "$tree/etc/fstab"
  : > "$tree/etc/machine-id"
  printf 'kvm-amd\ntun\nvirtio_console\n' > "$tree/etc/modules-load.d/mvm-test.conf"
  # What is said is on the console at once, which is a file of the test's: a journal on disk would
  # be gone with a power cut, and its syncs would save what the cut should lose.
  mkdir -p "$tree/etc/systemd/journald.conf.d"
  printf '[Journal]\nStorage=volatile\nForwardToConsole=yes\nTTYPath=/dev/ttyS0\nMaxLevelConsole=info\nRateLimitBurst=0\n' \
    > "$tree/etc/systemd/journald.conf.d/mvm-test.conf"
  # The channel: the project's own guest agent, as a service on the port the test listens at.
  printf '%s\n' 'SUBSYSTEM=="virtio-ports", ATTR{name}=="mvm.agent", TAG+="systemd", ENV{SYSTEMD_WANTS}+="mvm-test-channel.service"' \
    > "$tree/etc/udev/rules.d/70-mvm-test.rules"
  cat > "$tree/etc/systemd/system/mvm-test-channel.service" <<'UNIT'
[Unit]
Description=The tests' way into this machine
After=systemd-modules-load.service systemd-tmpfiles-setup.service
DefaultDependencies=no

[Service]
ExecStart=/usr/local/libexec/mvm-test/channel serve
Restart=on-failure
OOMScoreAdjust=-1000
TasksMax=infinity
UNIT
  # Nobody logs in, nothing is fetched or cleaned on a timer, and emulated seconds are not spent
  # on what no test looks at.
  local unit
  for unit in getty.target getty@tty1.service serial-getty@ttyS0.service apt-daily.timer \
    apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer systemd-logind.service systemd-user-sessions.service systemd-sysusers.service \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-pstore.service \
    systemd-timesyncd.service modprobe@.service dev-hugepages.mount dev-mqueue.mount \
    sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount \
    sys-fs-fuse-connections.mount; do
    ln -sf /dev/null "$tree/etc/systemd/system/$unit"
  done
  printf 'blacklist %s\n' aesni_intel ghash_clmulni_intel crct10dif_pclmul crc32_pclmul \
    sha512_ssse3 sha256_ssse3 sha1_ssse3 vmw_vsock_vmci_transport evdev button \
    > "$tree/etc/modprobe.d/mvm-test.conf"
  ln -sf /lib/systemd/system/multi-user.target "$tree/etc/systemd/system/default.target"
}

# Only the drivers a machine of QEMU's has; the rest of the package is three times as large.
modules() {
  local tree=$1
  mkdir -p "$tree/lib/modules"
  cp -a "$kernel/lib/modules/$release" "$tree/lib/modules/"
  rm -rf "$tree/lib/modules/$release/kernel/drivers/"{gpu,infiniband,scsi,usb,media,hid}
  chroot "$tree" depmod "$release"
}

# An initrd of the disk's driver and eight lines, made with the root's own busybox.
initrd() {
  local tree=$1 small
  small=$(mktemp -d)
  mkdir -p "$small/modules" "$small/dev" "$small/root"
  mknod -m 600 "$small/dev/console" c 5 1
  cp "$tree/bin/busybox" "$small/busybox"
  local number=100
  while read -r _ file; do
    cp "$tree$file" "$small/modules/$((number++)).ko"
  done < <(for module in virtio_pci virtio_blk; do
    chroot "$tree" modprobe --show-depends -S "$release" "$module"; done | awk '!seen[$2]++')
  cat > "$small/init" <<'INIT'
#!/busybox sh
/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do /busybox insmod $module; done
until [ -e /dev/vda ]; do /busybox usleep 20000; done
/busybox mount -t ext4 /dev/vda /root || exec /busybox sh
/busybox mount -o move /dev /root/dev
exec /busybox switch_root /root /sbin/init
INIT
  chmod 755 "$small/init"
  (cd "$small" && find . | sort | ./busybox cpio -o -H newc 2> /dev/null)
  rm -rf "$small"
}

mkdir -p "$out"
work=$(mktemp -d "$out/making.XXXXXX")
trap 'rm -rf "$work"' EXIT
mmdebstrap --quiet --mode=root --variant=essential --include="$packages" \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$work/tree" >&2
modules "$work/tree"
settings "$work/tree"
initrd "$work/tree" > "$work/initrd"
cp "$kernel/boot/vmlinuz-$release" "$work/vmlinuz"
mv "$work" "$made"
trap - EXIT
# Roots of earlier recipes that nobody made or used today.
find "$out" -mindepth 1 -maxdepth 1 ! -path "$made" -mmin +1440 -exec rm -rf {} +
echo "$made"
