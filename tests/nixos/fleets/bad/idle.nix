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
    desired_counts.running = 1;
    idle = {
      warm_after_seconds = 300;
      sleep_after_seconds = 60;
      keep_running = 2;
    };
  };
}
