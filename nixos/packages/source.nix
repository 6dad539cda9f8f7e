# What a build reads of this repository, so that an edit of anything else rebuilds nothing. `tests`
# is in it because the crates' manifests name their test files there; `flake.nix` and `images` are
# compiled into mvm.
{ lib }:
lib.fileset.toSource {
  root = ../..;
  fileset = lib.fileset.unions [
    ../../Cargo.lock
    ../../Cargo.toml
    ../../flake.nix
    ../../images
    ../../src
    ../../tests
  ];
}
