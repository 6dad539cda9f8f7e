# The initrd: the guest agent as /init and the modules it loads, in their order
# (/modules/NNN-name.ko), nothing else. /dev/console is in the archive every kernel carries itself.
{
  cpio,
  kernel,
  kmod,
  mvm-guest,
  runCommand,
  xz,
  zstd,
}:
let
  # As in src/host/src/image/modules.rs: the transport first, then drives in their order.
  modules = [
    "virtio_mmio"
    "virtio_blk"
    "virtio_net"
    "virtio_console"
    "ext4"
    "erofs"
    "virtio_rng"
    "vsock"
    "vmw_vsock_virtio_transport"
  ];
in
runCommand "mvm-initrd"
  {
    nativeBuildInputs = [
      cpio
      kmod
      xz
      zstd
    ];
    inherit modules;
    release = kernel.modDirVersion;
  }
  ''
    mkdir -p root/{dev,modules,newroot,proc,run,sys}
    install -m 0755 ${mvm-guest}/bin/mvm-guest root/init

    # modprobe prints what it would load, dependencies first; what is built in is no file.
    for module in $modules; do
      modprobe --dirname ${kernel.modules or kernel} --set-version "$release" --show-depends "$module"
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' > order

    place=0
    while read -r file; do
      name=$(basename "$file"); name=''${name%%.ko*}
      to=$(printf 'root/modules/%03d-%s.ko' "$place" "''${name//-/_}")
      case $file in
        *.xz) xz -dc "$file" > "$to" ;;
        *.zst) zstd -dcq "$file" > "$to" ;;
        *) cp "$file" "$to" ;;
      esac
      place=$((place + 1))
    done < order

    find root -exec touch -h -d @0 {} +
    (cd root && find . -mindepth 1 -printf '%P\n' | LC_ALL=C sort \
      | cpio --create --format newc --reproducible --owner 0:0 --quiet) > $out
  ''
