# Requested offsets are within the tenant's subnet, each one instance's, and 2 is a gateway's.
let
  cidr = import ../cidr.nix;
  twice = import ./twice.nix;
  inherit (builtins) concatMap filter;
in
tenant:
let
  inherit (tenant.network) subnet;
  last = subnet.last - subnet.first - 1;

  asked = concatMap (
    pool:
    map (instance: {
      inherit (pool) role;
      inherit (instance) offset;
      where = "${instance.where}.offset";
    }) (filter (instance: instance.offset != null) pool.named)
  ) tenant.pools;

  alone =
    {
      offset,
      role,
      where,
    }:
    if subnet != null && offset > last then
      [
        "${where}: ${toString offset} is not usable in ${cidr.show subnet}; use 2 to ${toString last}, or leave it away for the lowest free one"
      ]
    else if offset == 2 && role != "gateway" then
      [ "${where}: 2 belongs to the tenant's gateway instance; use 3 or more, or role gateway" ]
    else
      [ ];

  same =
    { again, first }:
    "${again.where}: ${toString again.offset} is that of ${first.where} too; leave it away for the lowest free one";
in
concatMap alone asked ++ map same (twice (entry: toString entry.offset) asked)
