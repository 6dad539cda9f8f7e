# A fleet as the rules of ./agreement see it: every tenant with its network and pools. Values that
# ./schema.nix refuses are replaced by ones that break no rule, so that a mistake is told once and
# hides no other.
let
  cidr = import ./cidr.nix;
  check = import ./check.nix;
  defaults = import ./defaults.nix;
  values = import ./values.nix;
  inherit (builtins)
    attrNames
    filter
    isAttrs
    mapAttrs
    ;
  inherit (check) accepts at;

  names = set: if isAttrs set then filter (name: isAttrs set.${name}) (attrNames set) else [ ];
  goodOr = default: rule: value: if value != null && accepts rule value then value else default;
  # A number of something; null where it is not told, or no number.
  number = goodOr null values.u64;
  counted = goodOr 0 values.u32;

  instance = where: name: given: {
    where = at where name;
    offset = goodOr null values.u32 (given.offset or null);
    desired = if given.desired or null == null then "running" else given.desired;
    data_disk_mib = goodOr null values.disk (given.data_disk_mib or null);
  };

  pool =
    where: name: given:
    let
      here = at where name;
      role = given.role or null;
      flag = field: given.${field} or null == true;
    in
    {
      where = here;
      role = if role == null then defaults.role else role;
      pinned = flag "pinned";
      critical = flag "critical";
      counts = {
        running = counted (given.desired_counts.running or null);
        warm = counted (given.desired_counts.warm or null);
        sleeping = counted (given.desired_counts.sleeping or null);
      };
      each = {
        vcpus = goodOr 0 values.vcpus (given.instance_resources.vcpus or null);
        mem_mib = goodOr 0 values.memory (given.instance_resources.mem_mib or null);
        data_disk_mib = goodOr 0 values.disk (given.instance_resources.data_disk_mib or null);
      };
      named = map (name: instance "${here}.instances" name given.instances.${name}) (
        names (given.instances or null)
      );
      idle = {
        warm_after_seconds = number (given.idle.warm_after_seconds or null);
        sleep_after_seconds = number (given.idle.sleep_after_seconds or null);
        keep_running = counted (given.idle.keep_running or null);
      };
    };

  tenant =
    poolsOf: name: given:
    let
      id = goodOr null values.netId (given.network.tenant_net_id or null);
      asked = given.network.ipv4_subnet or null;
      text = if asked == null && id != null then defaults.subnet id else asked;
      subnet = if goodOr null values.subnet text == null then null else cidr.parse text;
    in
    {
      where = at "tenants" name;
      network = {
        where = "${at "tenants" name}.network";
        inherit id subnet text;
      };
      pinned = given.pinned or null == true;
      quotas = mapAttrs (
        quota: default:
        let
          value = given.quotas.${quota} or null;
        in
        if value == null then default else number value
      ) defaults.quotas;
      pools = poolsOf name;
    };
in
fleet:
let
  pools = fleet.pools or null;
  tenants = fleet.tenants or null;
  poolsOf =
    name:
    map (pool' : pool (at "pools" name) pool' pools.${name}.${pool'}) (
      names (if isAttrs pools then pools.${name} or null else null)
    );
in
{
  tenants = map (name: tenant poolsOf name tenants.${name}) (names tenants);
  # Names of tenants that have pools and are not declared.
  ownerless = filter (name: !(isAttrs tenants && tenants ? ${name})) (
    if isAttrs pools then attrNames pools else [ ]
  );
}
