# A fleet as the document: what Nix names by attribute, JSON lists with its id. Optional fields that
# are null are left out. Whatever is not a set where one belongs passes through, so that a reader of
# the document finds the same mistake ./schema.nix does.
let
  defaults = import ./defaults.nix;
  inherit (builtins)
    attrNames
    filter
    isAttrs
    isInt
    isList
    listToAttrs
    mapAttrs
    ;

  withoutNulls =
    value:
    if isAttrs value then
      listToAttrs (
        map (name: {
          inherit name;
          value = withoutNulls value.${name};
        }) (filter (name: value.${name} != null) (attrNames value))
      )
    else if isList value then
      map withoutNulls value
    else
      value;

  # { NAME = fields; } → [ { ID = NAME; fields… } ]
  listed =
    id: shape: set:
    if isAttrs set then
      map (
        name:
        let
          fields = set.${name};
        in
        if isAttrs fields then { ${id} = name; } // shape name fields else fields
      ) (attrNames set)
    else
      set;
  asIs = _: fields: fields;

  pool =
    _: fields:
    fields
    // (if fields ? instances then { instances = listed "name" asIs fields.instances; } else { });

  tenant =
    pools: name: fields:
    let
      network = fields.network or { };
      subnet =
        if isInt (network.tenant_net_id or null) && network.ipv4_subnet or null == null then
          { ipv4_subnet = defaults.subnet network.tenant_net_id; }
        else
          { };
    in
    fields
    // (if fields ? network && isAttrs network then { network = network // subnet; } else { })
    // (if pools ? ${name} then { pools = listed "pool_id" pool pools.${name}; } else { });
in
fleet:
let
  given = withoutNulls fleet;
  pools = given.pools or { };
  tenants = given.tenants or { };
  # Pools of a tenant that is not there: their reader asks for its network.
  ownerless = if isAttrs pools && isAttrs tenants then mapAttrs (_: _: { }) pools else { };
in
if !isAttrs fleet then
  fleet
else
  removeAttrs given [ "pools" ]
  // {
    schema_version = 1;
  }
  // (if given ? hosts then { hosts = listed "host_id" asIs given.hosts; } else { })
  // (
    if !(given ? tenants || given ? pools) then
      { }
    else if isAttrs tenants then
      { tenants = listed "tenant_id" (tenant pools) (ownerless // tenants); }
    else
      { inherit tenants; }
  )
