# Two tenants on two hosts: a web application behind its gateway, and a build service of its own.
let
  small = {
    vcpus = 2;
    mem_mib = 1024;
  };
  minimal = {
    kind = "embedded";
    profile = "minimal";
  };
in
{
  hosts = {
    atlas.address = "192.0.2.10";
    borea = {
      address = "192.0.2.11";
      labels.disk = "nvme";
    };
  };

  tenants = {
    acme = {
      network = {
        tenant_net_id = 7;
        ipv4_subnet = "10.240.7.0/24";
      };
      quotas.max_running = 10;
      egress = "internet";
    };
    globex = {
      # Its subnet is the one numbered by its net id: 10.241.44.0/24.
      network.tenant_net_id = 300;
      egress.list = [ "192.0.2.0/24" ];
      pinned = true;
    };
  };

  pools = {
    acme = {
      gateways = {
        image = minimal;
        role = "gateway";
        instance_resources = small;
        desired_counts.running = 1;
        critical = true;
        routes = [
          {
            hostname = "app.example.org";
            port = 8080;
          }
        ];
      };
      workers = {
        image = {
          kind = "flake";
          ref = "github:example/app";
          profile = "node";
        };
        instance_resources = small // {
          data_disk_mib = 2048;
        };
        desired_counts = {
          running = 2;
          warm = 1;
        };
        instances.alice = {
          offset = 20;
          desired = "sleeping";
          labels.user = "alice";
        };
        idle = {
          warm_after_seconds = 300;
          sleep_after_seconds = 3600;
          keep_running = 1;
        };
        secret_scopes = [ "mail" ];
      };
    };
    globex.builders = {
      image = minimal;
      role = "builder";
      instance_resources = small;
      desired_counts.warm = 1;
      runtime_policy.drain_timeout_seconds = 120;
    };
  };
}
