{
  tenants.acme = { };
}
