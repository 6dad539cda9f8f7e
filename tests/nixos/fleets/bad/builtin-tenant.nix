{
  tenants.dev.network.tenant_net_id = 7;
}
