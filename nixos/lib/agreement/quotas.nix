# What a tenant's pools ask for together, against its quotas and the room of its subnet. The sums
# are those of src/model/src/desired/check/quota.rs.
let
  cidr = import ../cidr.nix;
  inherit (builtins)
    any
    attrNames
    concatMap
    filter
    foldl'
    length
    ;
  sumOf = f: list: foldl' (sum: entry: sum + f entry) 0 list;

  unnamed = pool: pool.counts.running + pool.counts.warm + pool.counts.sleeping;
  instancesOf = pool: unnamed pool + length pool.named;
  wanted =
    status: pool:
    pool.counts.${status} + length (filter (instance: instance.desired == status) pool.named);
  inMemory = pool: wanted "running" pool + wanted "warm" pool;

  diskOf =
    pool:
    let
      size =
        instance:
        if instance.data_disk_mib == null then pool.each.data_disk_mib else instance.data_disk_mib;
    in
    sumOf size pool.named
    + unnamed pool * pool.each.data_disk_mib
    # A sleeping instance keeps its memory on disk.
    + wanted "sleeping" pool * pool.each.mem_mib;
in
tenant:
let
  inherit (tenant) pools quotas;
  inherit (tenant.network) subnet;

  asked = {
    max_running = sumOf (wanted "running") pools;
    max_warm = sumOf (wanted "warm") pools;
    max_vcpus = sumOf (pool: inMemory pool * pool.each.vcpus) pools;
    max_mem_mib = sumOf (pool: inMemory pool * pool.each.mem_mib) pools;
    max_disk_gib = (sumOf diskOf pools + 1023) / 1024;
    max_pools = length pools;
  };
  exceeds = quota: asked: quotas.${quota} != null && asked > quotas.${quota};

  together =
    quota:
    if exceeds quota asked.${quota} then
      [
        "${tenant.where}.quotas.${quota}: ${toString quotas.${quota}} is below the ${toString asked.${quota}} its pools ask for; raise it or lower the counts"
      ]
    else
      [ ];

  onePool =
    pool:
    if exceeds "max_instances_per_pool" (instancesOf pool) then
      [
        "${pool.where}: ${toString (instancesOf pool)} instances are above quotas.max_instances_per_pool ${toString quotas.max_instances_per_pool} of ${tenant.where}; raise it or lower the counts"
      ]
    else
      [ ];

  instances = sumOf instancesOf pools;
  gateway = any (pool: pool.role == "gateway" && instancesOf pool > 0) pools;
  # Without the network's own, the host's and the broadcast address; .2 is only a gateway's.
  room = subnet.last - subnet.first - (if gateway then 2 else 3);
in
concatMap together (attrNames asked)
++ concatMap onePool pools
++ (
  if subnet != null && instances > room then
    [
      "${tenant.network.where}: ${cidr.show subnet} has room for ${toString room} instances, its pools ask for ${toString instances}; lower the counts or use a larger subnet"
    ]
  else
    [ ]
)
