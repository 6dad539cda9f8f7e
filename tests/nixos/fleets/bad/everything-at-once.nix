{
  # A mistake in one place hides none elsewhere, and is told once.
  hosts.ATLAS = { };
  tenants = {
    acme = {
      network.tenant_net_id = 7;
      quotas = {
        max_running = 1;
        max_vcpus = "many";
      };
    };
    globex.network = {
      tenant_net_id = 7;
      ipv4_subnet = "10.240.8.0/33";
    };
    initech.network = {
      tenant_net_id = 9;
      ipv4_subnet = "10.240.7.128/25";
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
    role = "gate";
    desired_counts.running = 2;
  };
  pools.umbrella.workers = {
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
