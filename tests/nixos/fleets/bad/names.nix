{
  hosts.Atlas.address = "192.0.2.10";
  tenants = {
    a.network.tenant_net_id = 1;
    acme-.network.tenant_net_id = 2;
    acme.network.tenant_net_id = 3;
    "../etc".network.tenant_net_id = 4;
  };
  pools.acme."2workers" = {
    image = {
      kind = "embedded";
      profile = "minimal";
    };
    instance_resources = {
      vcpus = 2;
      mem_mib = 1024;
    };
    instances.Alice = { };
  };
}
