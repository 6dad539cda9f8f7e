{
  tenants.acme.network.tenant_net_id = 7;
  pools.acme.workers = {
    instance_resources = {
      vcpus = 2;
      mem_mib = 1024;
    };
  };
}
