{
  tenants.acme.network.tenant_net_id = 4096;
}
