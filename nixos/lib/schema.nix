# What a fleet is made of: the fields of hosts, tenants and pools, under the names they have in the
# Intent document, each with the check of its value alone. What objects must agree on is in
# ./agreement.
#
# `import ./schema.nix "" fleet` is the list of problems.
let
  check = import ./check.nix;
  values = import ./values.nix;
  inherit (check)
    attrsOf
    bool
    int
    listOf
    oneOf
    record
    string
    text
    ;
  inherit (values) u32 u64 name;

  anything = _: _: [ ];

  host = record {
    optional = {
      node_id = text;
      address = text;
      labels = attrsOf {
        key = anything;
        value = string;
      };
    };
  };

  tenant = record {
    required.network = record {
      required.tenant_net_id = values.netId;
      optional.ipv4_subnet = values.subnet;
    };
    optional = {
      quotas = record {
        optional = {
          max_vcpus = u32;
          max_mem_mib = u64;
          max_running = u32;
          max_warm = u32;
          max_pools = u32;
          max_instances_per_pool = u32;
          max_disk_gib = u64;
        };
      };
      egress = values.egress;
      pinned = bool;
      secrets_hash = values.digest;
    };
  };

  instance = record {
    optional = {
      offset = int {
        min = 2;
        max = 65534;
      };
      desired = oneOf "status to ask for" [
        "running"
        "warm"
        "sleeping"
        "stopped"
      ];
      labels = values.labels;
      data_disk_mib = values.disk;
      revision = values.digest;
    };
  };

  pool = record {
    required = {
      image = values.image;
      instance_resources = record {
        required = {
          inherit (values) vcpus;
          mem_mib = values.memory;
        };
        optional.data_disk_mib = values.disk;
      };
    };
    optional = {
      role = values.role;
      desired_counts = record {
        optional = {
          running = u32;
          warm = u32;
          sleeping = u32;
        };
      };
      instances = attrsOf {
        key = name;
        value = instance;
      };
      runtime_policy = record {
        optional = {
          min_running_seconds = values.seconds;
          min_warm_seconds = values.seconds;
          drain_timeout_seconds = values.seconds;
          graceful_shutdown_seconds = values.seconds;
        };
      };
      idle = record {
        optional = {
          warm_after_seconds = values.seconds;
          sleep_after_seconds = values.seconds;
          keep_running = u32;
          keep_warm = u32;
        };
      };
      pinned = bool;
      critical = bool;
      routes = listOf (record {
        required = {
          hostname = values.hostname;
          port = values.port;
        };
      });
      secret_scopes = listOf values.secretScope;
    };
  };
in
record {
  required.tenants = attrsOf {
    key = values.tenantName;
    value = tenant;
  };
  optional = {
    hosts = attrsOf {
      key = name;
      value = host;
    };
    pools = attrsOf {
      # A pool's tenant must be there, and so has a good name.
      key = anything;
      value = attrsOf {
        key = name;
        value = pool;
      };
    };
  };
}
