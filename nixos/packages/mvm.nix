# The one binary `mvm`, with the guest agent where it looks for it: ../libexec/mvm beside ../bin.
{
  lib,
  rustPlatform,
  stdenv,
  mvm-guest,
}:
let
  workspace = (lib.importTOML ../../Cargo.toml).workspace.package;
in
rustPlatform.buildRustPackage {
  pname = "mvm";
  inherit (workspace) version;

  src = import ./source.nix { inherit lib; };
  cargoLock.lockFile = ../../Cargo.lock;

  cargoBuildFlags = [ "--package=mvm-cli" ];
  # The other crates' tests need root, namespaces and guests: `tests/run` has them.
  cargoTestFlags = [
    "--package=mvm-model"
    "--package=mvm-guest-proto"
  ];

  postInstall = ''
    install -D -m 0755 ${mvm-guest}/bin/mvm-guest \
      $out/libexec/mvm/mvm-guest-${stdenv.hostPlatform.parsed.cpu.name}
  '';

  meta = {
    description = "Linux hosts as one multi-tenant fleet of microVMs";
    license = lib.licenses.asl20;
    mainProgram = "mvm";
    platforms = [
      "aarch64-linux"
      "x86_64-linux"
    ];
  };
}
