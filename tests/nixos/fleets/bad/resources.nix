{
  tenants.acme.network.tenant_net_id = 7;
  pools.acme.workers = {
    image = {
      kind = "embedded";
      profile = "minimal";
    };
    instance_resources = {
      vcpus = 64;
      mem_mib = 1024.5;
      data_disk_mib = 4;
    };
  };
}
