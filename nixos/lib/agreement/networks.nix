# Net ids and subnets are each one tenant's.
let
  cidr = import ../cidr.nix;
  twice = import ./twice.nix;
  inherit (builtins) filter foldl' sort;

  sameId =
    { again, first }:
    "${again.where}.tenant_net_id: ${toString again.id} is that of ${first.where} too; give each tenant a number of its own, 0 to 4095";

  # Sorted by their start, a subnet overlaps an earlier one exactly when it starts before the
  # furthest end so far.
  step =
    { widest, problems }:
    network:
    let
      overlaps = widest != null && cidr.overlaps widest.subnet network.subnet;
    in
    {
      widest =
        if widest == null || network.subnet.last > widest.subnet.last then network else widest;
      # Two default subnets of one number are one mistake, told as such.
      problems =
        if overlaps && (network.id == null || network.id != widest.id) then
          problems
          ++ [
            "${network.where}.ipv4_subnet: ${network.text} overlaps ${widest.text} of ${widest.where}; give one of them another subnet"
          ]
        else
          problems;
    };
in
tenants:
let
  networks = map (tenant: tenant.network) tenants;
  numbered = filter (network: network.id != null) networks;
  addressed = sort (a: b: a.subnet.first < b.subnet.first) (
    filter (network: network.subnet != null) networks
  );
  start = {
    widest = null;
    problems = [ ];
  };
in
map sameId (twice (network: toString network.id) numbered) ++ (foldl' step start addressed).problems
