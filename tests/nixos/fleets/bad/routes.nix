{
  tenants.acme.network.tenant_net_id = 7;
  pools.acme.workers = {
    image = {
      kind = "embedded";
      profile = "minimal";
    };
    instance_resources = {
      vcpus = 2;
      mem_mib = 1024;
    };
    routes = [
      {
        hostname = "App.example.org";
        port = 0;
      }
      { hostname = "app.example.org"; }
    ];
  };
}
