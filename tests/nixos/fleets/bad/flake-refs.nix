# References that are options, attributes, credentials, unproven or half a sentence.
{
  tenants.acme.network.tenant_net_id = 7;
  pools.acme =
    builtins.mapAttrs
      (_: ref: {
        image = {
          kind = "flake";
          inherit ref;
          profile = "web-shop";
        };
        instance_resources = {
          vcpus = 1;
          mem_mib = 512;
        };
      })
      {
        attribute = ".#tenant";
        credentials = "git+https://me:hunter2@host.example/repo";
        forge = "github:owner";
        home = "~/images";
        insecure = "http://host.example/x.tar.gz";
        option = "--impure";
        parameter = "github:o/r?token=hunter2";
        words = "my images";
      };
}
