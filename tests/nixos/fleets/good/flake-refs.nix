# Every form a reference to a flake may have.
{
  tenants.acme = {
    network.tenant_net_id = 7;
    quotas.max_pools = 20;
  };
  pools.acme =
    builtins.mapAttrs
      (_: ref: {
        image = {
          kind = "flake";
          inherit ref;
          profile = "web-shop";
          role = "worker";
        };
        role = "capability-shop";
        instance_resources = {
          vcpus = 1;
          mem_mib = 512;
        };
      })
      {
        aa = ".";
        ab = "/srv/my flake?dir=a/b";
        ac = "nixpkgs";
        ad = "github:myorg/myflake/main";
        ae = "gitlab:group%2Fsub/repo";
        af = "sourcehut:~me/repo?ref=x&rev=0123";
        ag = "git+https://host.example:8443/repo.git";
        ah = "git+ssh://git@host.example/repo";
        ai = "git+file:///srv/repo";
        aj = "https://host.example/x.tar.gz?narHash=sha256-A+b/c=";
        ak = "path:./x";
      };
}
