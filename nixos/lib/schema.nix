# What a fleet is made of: the fields of hosts, tenants and pools, under the names they have in the
# Intent document, each with the check of its value alone. What several objects must agree on is in
# ./agreement.nix.
let
  check = import ./check.nix;
  cidr = import ./cidr.nix;
  inherit (check)
    at
    attrsOf
    bool
    both
    custom
    int
    listOf
    matching
    oneOf
    record
    show
    text
    ;

  unsigned = max: int { min = 0; inherit max; };
  u32 = unsigned 4294967295;
  u64 = unsigned 9223372036854775807;
  seconds = unsigned 86400;

  private = map cidr.parse [
    "10.0.0.0/8"
    "172.16.0.0/12"
    "192.168.0.0/16"
  ];

  isCidr = custom {
    test = value: cidr.parse value != null;
    problem = value: "${show value} is not a network in CIDR notation";
    fix = _: "write it like 10.240.7.0/24";
  };
  hasNoHostBits = custom {
    test = value: (cidr.parse value).address == (cidr.parse value).first;
    problem = value: "${show value} is an address within its network";
    fix = value: "write ${cidr.show (cidr.parse value)}";
  };
  isUsableSize = custom {
    test = value: (cidr.parse value).prefix >= 16 && (cidr.parse value).prefix <= 28;
    problem = value: "${show value} has a prefix outside /16 to /28";
    fix = _: "a /24 has room for 253 instances";
  };
  isPrivate = custom {
    test = value: builtins.any (outer: cidr.contains outer (cidr.parse value)) private;
    problem = value: "${show value} is not private";
    fix = _: "take it from 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16";
  };
in
rec {
  name = where: matching "name" "[a-z][a-z0-9-]{0,38}[a-z0-9]" "use 2 to 40 of a-z, 0-9 and '-', starting with a letter and not ending with '-'" where;

  netId = int { min = 0; max = 4095; };

  network = both isCidr hasNoHostBits;
  subnet = both network (both isUsableSize isPrivate);
}
