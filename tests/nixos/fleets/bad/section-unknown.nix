{
  tenants.acme.network.tenant_net_id = 7;
  tenant.globex = { };
}
