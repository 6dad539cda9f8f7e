{
  tenants.acme = {
    network.tenant_net_id = 7;
    quotas = {
      max_pools = 0;
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
  };
}
