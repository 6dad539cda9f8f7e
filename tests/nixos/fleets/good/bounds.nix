# Every value at the edge of what is allowed, and fields that are null as if they were not there.
{
  hosts = null;
  tenants.aa = {
    network = {
      tenant_net_id = 4095;
      ipv4_subnet = "192.168.255.240/28";
    };
    quotas = {
      max_vcpus = 416;
      max_running = 13;
      max_mem_mib = 1664;
    };
    egress.list = [ ];
    pinned = null;
  };
  pools.aa = {
    zz = {
      image = {
        kind = "revision";
        digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
      };
      role = "gateway";
      instance_resources = {
        vcpus = 32;
        mem_mib = 128;
        data_disk_mib = 0;
      };
      desired_counts.running = 11;
      instances = {
        a1 = {
          offset = 2;
          desired = null;
        };
        a2.offset = 14;
      };
    };
    "a234567890123456789012345678901234567890" = {
      image = {
        kind = "embedded";
        profile = "node";
      };
      role = "capability-mail2";
      instance_resources = {
        vcpus = 1;
        mem_mib = 1048576;
      };
    };
  };
}
