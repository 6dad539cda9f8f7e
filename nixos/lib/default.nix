# The flake's `lib`: a fleet written in Nix becomes the Intent document mvm reads. Builtins only, so
# that it evaluates before nixpkgs is fetched, and without it.
#
#   { hosts, tenants, pools } ─► schema.nix ─► agreement/ ─► intent.nix ─► Intent
#                                each value     each other    reshaped
#
# The rules are those of the Rust types (src/model/src/{intent,desired}), which have the last word;
# tests/host/nix.rs gives the same fleets to both.
let
  inherit (builtins) concatStringsSep isAttrs length;

  problemsOf =
    fleet:
    import ./schema.nix "" fleet
    # What is no set has no objects that could disagree.
    ++ (if isAttrs fleet then import ./agreement fleet else [ ]);

  complaint =
    problems:
    let
      count = length problems;
      title = if count == 1 then "a problem" else "${toString count} problems";
    in
    concatStringsSep "\n- " ([ "this fleet has ${title}:" ] ++ problems);
in
rec {
  # The Intent of a fleet; throws everything that is wrong with it at once, one line each:
  # "object: problem; fix".
  fleet =
    given:
    let
      problems = problemsOf given;
    in
    if problems == [ ] then fleetUnchecked given else throw (complaint problems);

  # The document alone, good or not, for what checks it itself (`mvm … --check-config`).
  fleetUnchecked = import ./intent.nix;

  exampleFleet = fleet (import ../../tests/nixos/fleets/good/example.nix);
}
