# What the objects of a fleet must agree on: tenants with each other, pools with their tenant. Each
# rule looks only at values that are good by themselves (./schema.nix tells about the others), so
# that a mistake is told once and hides no other.
let
  check = import ./check.nix;
  cidr = import ./cidr.nix;
  defaults = import ./defaults.nix;
  schema = import ./schema.nix;
  inherit (builtins)
    attrNames
    attrValues
    concatMap
    concatLists
    filter
    foldl'
    hasAttr
    head
    isAttrs
    length
    tail
    ;
  inherit (check) accepts at;

  sum = foldl' (a: b: a + b) 0;
  asSet = value: if isAttrs value then value else { };
  goodOr = default: rule: value: if accepts rule value then value else default;
  # Each unordered pair once, as { a, b }.
  pairs =
    list: if list == [ ] then [ ] else map (b: { a = head list; inherit b; }) (tail list) ++ pairs (tail list);
in
fleet:
let
  tenants = asSet (fleet.tenants or { });
  pools = asSet (fleet.pools or { });
  poolsOf = name: asSet (pools.${name} or { });

  networks = concatMap (
    name:
    let
      id = goodOr null schema.netId (tenants.${name}.network.tenant_net_id or null);
      text = tenants.${name}.network.ipv4_subnet or (if id == null then null else defaults.subnet id);
    in
    [
      {
        inherit id text;
        where = at "tenants" name + ".network";
        subnet = if accepts schema.subnet text then cidr.parse text else null;
      }
    ]
  ) (attrNames tenants);

  sameId =
    { a, b }:
    if a.id != null && a.id == b.id then
      [ "${b.where}.tenant_net_id: ${toString b.id} belongs to ${a.where} already; give each tenant a number of its own" ]
    else
      [ ];
  overlap =
    { a, b }:
    # The default subnets of one net id are one mistake, told above.
    if a.subnet != null && b.subnet != null && a.id != b.id && cidr.overlaps a.subnet b.subnet then
      [ "${b.where}.ipv4_subnet: ${b.text} overlaps ${a.text} of ${a.where}; give each tenant addresses of its own" ]
    else
      [ ];

in
concatMap sameId (pairs networks)
