{
  tenants.acme = {
    network.tenant_net_id = 7;
    quotas = {
      max_vcpus = 5;
      max_mem_mib = 3071;
      max_running = 1;
      max_warm = 0;
      max_disk_gib = 0;
    };
  };
  pools.acme.workers = {
    image = {
      kind = "embedded";
      profile = "minimal";
    };
    instance_resources = {
      vcpus = 2;
      mem_mib = 1024;
    };
    desired_counts = {
      running = 1;
      warm = 1;
      sleeping = 1;
    };
    instances.alice = { };
  };
}
