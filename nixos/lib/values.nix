# Checks of the values a fleet is made of, by the rules of the Rust types of the same names.
let
  check = import ./check.nix;
  cidr = import ./cidr.nix;
  inherit (builtins)
    all
    any
    attrNames
    elem
    isAttrs
    isInt
    isString
    length
    match
    stringLength
    ;
  inherit (check)
    attrsOf
    both
    custom
    int
    listOf
    matching
    record
    show
    words
    ;

  upTo =
    max:
    int {
      min = 0;
      inherit max;
    };

  digest = matching "digest" "[0-9a-f]{64}" "give the 64 hex digits of a SHA-256";

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
  hasUsableSize = custom {
    test = value: (cidr.parse value).prefix >= 16 && (cidr.parse value).prefix <= 28;
    problem = value: "${show value} has a prefix outside /16 to /28";
    fix = _: "a /24 has room for 253 instances";
  };
  isPrivate = custom {
    test = value: any (outer: cidr.contains (cidr.parse outer) (cidr.parse value)) privateNetworks;
    problem = value: "${show value} is not private";
    fix = _: "take it from ${words privateNetworks}";
  };
  privateNetworks = [
    "10.0.0.0/8"
    "172.16.0.0/12"
    "192.168.0.0/16"
  ];
in
rec {
  inherit digest;

  u32 = upTo 4294967295;
  u64 = upTo 9223372036854775807;
  seconds = int {
    min = 0;
    max = 366 * 24 * 3600;
    unit = " seconds";
  };
  port = int {
    min = 1;
    max = 65535;
  };
  netId = upTo 4095;

  name =
    matching "name" "[a-z][a-z0-9-]{0,38}[a-z0-9]"
      "use 2 to 40 of a-z, 0-9 and '-', starting with a letter and not ending with '-'";
  tenantName = both name (custom {
    test = value: value != "dev";
    problem = _: "the tenant \"dev\" is part of mvm";
    fix = _: "choose another name";
  });

  role = custom {
    test =
      value:
      isString value
      && stringLength value <= 64
      && match "gateway|builder|worker|capability-[a-z0-9]{1,20}" value != null;
    problem = value: "${show value} is not a role";
    fix = _: "use one of: gateway, builder, worker, capability-<word>";
  };

  subnet = both isCidr (both hasNoHostBits (both hasUsableSize isPrivate));

  egress =
    where: value:
    if isAttrs value then
      record { required.list = listOf isCidr; } where value
    else
      custom {
        test =
          value:
          elem value [
            "none"
            "internet"
          ];
        problem = value: "${show value} says nothing about egress";
        fix = _: "use \"none\", \"internet\" or { list = [ \"192.0.2.0/24\" ]; }";
      } where value;

  image = import ./image.nix { inherit digest name role; };

  disk = custom {
    test = value: isInt value && (value == 0 || (value >= 8 && value <= 16 * 1024 * 1024));
    problem = value: "${show value} is not a size of 8 to ${toString (16 * 1024 * 1024)} MiB";
    fix = _: "give a whole number of MiB, or 0 for no data drive";
  };
  vcpus = int {
    min = 1;
    max = 32;
  };
  memory = int {
    min = 128;
    max = 1024 * 1024;
    unit = " MiB";
  };

  labels = both (attrsOf {
    key = custom {
      test = key: key != "" && stringLength key <= 200;
      problem = key: "${show key} is no label";
      fix = _: "use 1 to 200 bytes";
    };
    value = custom {
      test = value: isString value && stringLength value <= 200;
      problem = value: "${show value} is no label's value";
      fix = _: "use a string of up to 200 bytes";
    };
  }) (custom {
    test = value: length (attrNames value) <= 32;
    problem = value: "${toString (length (attrNames value))} labels are too many";
    fix = _: "use up to 32";
  });

  hostname = custom {
    test =
      value:
      isString value
      && stringLength value <= 253
      && all (label: builtins.isList label || match "[a-z0-9-]{1,63}" label != null) (
        builtins.split "[.]" value
      );
    problem = value: "${show value} is not a host name";
    fix = _: "give one in lower case, like app.example.org";
  };
  secretScope =
    matching "secret scope" "[a-z0-9._-]{1,64}"
      "use up to 64 of a-z, 0-9, '-', '_' and '.'";
}
