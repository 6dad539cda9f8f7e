# The image set: attribute → role and profile. Plain values, so that the flake's names evaluate
# without nixpkgs. Every image is `tenant-<role>-<profile>`; roles the set does not list
# (`capability-<word>`) use the older form `tenant-<profile>`, which says nothing of a role.
#
# OpenClaw is not here: its packages come from npm by a lock without addresses, which only the
# embedded builder reads.
let
  roles = [
    "gateway"
    "builder"
    "worker"
  ];
  profiles = [
    "minimal"
    "hello"
    "node"
  ];
  each = make: builtins.concatMap make profiles;
in
builtins.listToAttrs (
  each (
    profile:
    [
      {
        name = "tenant-${profile}";
        value = {
          inherit profile;
          role = null;
        };
      }
    ]
    ++ map (role: {
      name = "tenant-${role}-${profile}";
      value = { inherit role profile; };
    }) roles
  )
)
