# The guest agent: static, tiny, PID 1 of every guest. Call it with a package set for musl.
#
# Built alone: beside other crates cargo would unify features, and the agent would carry theirs.
{
  lib,
  rustPlatform,
  stdenv,
}:
assert lib.assertMsg stdenv.hostPlatform.isMusl
  "mvm-guest: built for ${stdenv.hostPlatform.config}, but guests have no C library; use pkgsStatic.callPackage";
let
  workspace = (lib.importTOML ../../Cargo.toml).workspace.package;
in
rustPlatform.buildRustPackage {
  pname = "mvm-guest";
  inherit (workspace) version;

  src = import ./source.nix { inherit lib; };
  cargoLock.lockFile = ../../Cargo.lock;

  cargoBuildFlags = [ "--package=mvm-guest" ];
  # The profile of Cargo.toml that makes it small.
  buildType = "guest";
  # Its tests are run by `tests/run`: they need namespaces and a kernel.
  doCheck = false;

  meta = {
    description = "mvm's guest agent";
    license = lib.licenses.asl20;
    mainProgram = "mvm-guest";
    platforms = [
      "aarch64-linux"
      "x86_64-linux"
    ];
  };
}
