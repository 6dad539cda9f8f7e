{
  tenants.acme.network = {
    tenant_net_id = 7;
    ipv4_subnet = "10.240.256.0/24";
  };
}
