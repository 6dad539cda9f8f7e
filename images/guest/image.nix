# One image: what `mvm pool build` takes in (docs/reference/image-output.md). Kernel, initrd with
# the guest agent, erofs root, manifest.json, as plain files of one directory.
{
  lib,
  busybox,
  closureInfo,
  erofs-utils,
  kernel,
  initrd,
  mvm-guest,
  nodejs,
  runCommand,
  stdenv,
  # Null for an image of any role.
  role,
  profile,
}:
let
  workload = import ./workload.nix { inherit role profile; };
  base = ../../src/host/src/image/base;

  # The version the guest agent in the image speaks, from where the agent has it.
  guestProto =
    let
      source = builtins.readFile ../../src/guest-proto/src/lib.rs;
      found = builtins.match ".*pub const VERSION: u8 = ([0-9]+);.*" source;
    in
    lib.toInt (lib.head found);

  manifest = {
    schema_version = 1;
    inherit profile;
    arch = stdenv.hostPlatform.parsed.cpu.name;
    guest_proto = guestProto;
    kernel_release = kernel.modDirVersion;
  }
  // lib.optionalAttrs (role != null) { inherit role; }
  // lib.optionalAttrs (workload != null) { workload = workload.manifest; };

  about = { inherit profile; } // lib.optionalAttrs (role != null) { inherit role; };
  programs = lib.optional (profile == "node") nodejs;
in
runCommand "tenant-${lib.optionalString (role != null) "${role}-"}${profile}"
  {
    nativeBuildInputs = [ erofs-utils ];
    manifest = builtins.toJSON manifest;
    about = builtins.toJSON about;
    passAsFile = [
      "manifest"
      "about"
    ];
  }
  ''
    # Staged here, not in a store path: that would lose modes like that of /tmp.
    mkdir -p root/{data,dev,etc/mvm,etc/mvm-config,home,mnt,opt,proc,root,run,srv,sys,tmp}
    mkdir -p root/{usr/bin,usr/sbin,usr/lib,usr/lib64,usr/local/bin,var/lib,var/log}
    chmod 0700 root/root && chmod 1777 root/tmp
    for link in bin sbin lib lib64; do ln -s "usr/$link" "root/$link"; done
    ln -s /run root/var/run
    ln -s /run/lock root/var/lock
    ln -s /tmp root/var/tmp
    ln -s /proc/self/mounts root/etc/mtab
    ln -s /run/resolv.conf root/etc/resolv.conf
    for file in group hosts nsswitch.conf os-release passwd profile shells; do
      install -m 0644 ${base}/$file root/etc/$file
    done
    install -m 0644 "$aboutPath" root/etc/mvm/image.json
    install -m 0755 ${mvm-guest}/bin/mvm-guest root/usr/sbin/init

    ${lib.concatMapStringsSep "\n" (program: ''
      mkdir -p root/nix/store
      xargs cp -a --target-directory root/nix/store < ${closureInfo { rootPaths = [ program ]; }}/store-paths
      for file in ${program}/bin/*; do ln -s "$file" root/usr/bin/; done
    '') programs}

    # Busybox and a link for every applet, unless the profile brings the real program.
    install -m 0755 ${busybox}/bin/busybox root/usr/bin/busybox
    for applet in $(root/usr/bin/busybox --list-full); do
      name=''${applet##*/}
      case $name in init | linuxrc | busybox) continue ;; esac
      case $applet in
        *sbin/*) place=root/usr/sbin/$name target=../bin/busybox ;;
        *) place=root/usr/bin/$name target=busybox ;;
      esac
      [ -e "$place" ] || [ -L "$place" ] || ln -s "$target" "$place"
    done

    ${lib.optionalString (workload != null) ''
      install -D -m 0755 ${workload.script} root/${workload.place}
    ''}

    mkdir $out
    mkfs.erofs -x-1 -T0 -U 6d766d00-726f-6f74-8000-000000000001 --all-root \
      -Eforce-inode-compact -zlz4 -C65536 $out/rootfs root
    install -m 0444 ${kernel}/${stdenv.hostPlatform.linux-kernel.target or "bzImage"} $out/kernel
    ${lib.optionalString stdenv.hostPlatform.isx86_64 ''
      install -m 0444 ${kernel.dev}/vmlinux $out/vmlinux
    ''}
    install -m 0444 ${initrd} $out/initrd
    install -m 0444 "$manifestPath" $out/manifest.json
  ''
