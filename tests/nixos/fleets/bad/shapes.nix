{
  hosts.atlas = "192.0.2.10";
  tenants.acme = {
    network = 7;
    egress = true;
    pinned = "yes";
  };
  pools.acme = [ ];
}
