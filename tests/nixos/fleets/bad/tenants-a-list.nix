{
  tenants = [ "acme" ];
}
