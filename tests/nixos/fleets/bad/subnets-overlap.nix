{
  tenants = {
    acme.network = {
      tenant_net_id = 1;
      ipv4_subnet = "10.240.0.0/20";
    };
    # Its default is 10.240.9.0/24, within the other.
    globex.network.tenant_net_id = 9;
  };
}
