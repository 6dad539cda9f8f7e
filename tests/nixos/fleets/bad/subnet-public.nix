{
  tenants.acme.network = {
    tenant_net_id = 7;
    ipv4_subnet = "8.8.8.0/24";
  };
}
