# What a fleet need not say. Only values that a check or the document needs: every other default is
# mvm's own.
{
  role = "worker";

  quotas = {
    max_vcpus = 16;
    max_mem_mib = 32 * 1024;
    max_running = 8;
    max_warm = 4;
    max_pools = 10;
    max_instances_per_pool = 32;
    max_disk_gib = 100;
  };

  # The /24 numbered by the net id, in the cluster's 10.240.0.0/12.
  subnet = netId: "10.${toString (240 + netId / 256)}.${toString (netId - netId / 256 * 256)}.0/24";
}
