{
  tenants.acme.network.tenant_net_id = 7;
  tenants.globex.network.tenant_net_id = 7;
}
