{
  tenants.acme = {
    network.tenant_net_id = 7;
    egress.list = [ "example.org" ];
  };
}
