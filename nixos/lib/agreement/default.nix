# What the objects of a fleet must agree on: tenants with each other, pools with their tenant, an
# instance with its neighbours. A list of problems.
fleet:
let
  view = import ../view.nix fleet;
  inherit (import ../check.nix) at;

  ownerless = name: "${at "pools" name}: there is no tenant of this name; declare tenants.${name}";
in
map ownerless view.ownerless
++ import ./networks.nix view.tenants
++ builtins.concatMap (
  tenant:
  import ./offsets.nix tenant
  ++ import ./quotas.nix tenant
  ++ builtins.concatMap (import ./pool.nix tenant) tenant.pools
) view.tenants
