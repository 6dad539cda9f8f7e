{
  tenants.acme.network.tenant_net_id = 7;
  pools.acme.workers = {
    image = {
      kind = "revision";
      digest = "sha256:abc";
    };
    instance_resources = {
      vcpus = 2;
      mem_mib = 1024;
    };
  };
}
