{
  tenants.acme = {
    network = {
      tenant_net_id = 7;
      ipv4_subnet = "10.240.7.0/28";
    };
    quotas.max_running = 100;
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
    desired_counts.sleeping = 13;
  };
}
