# The entries of a list whose key an earlier one has already, each with that first one.
let
  inherit (builtins)
    attrValues
    concatMap
    groupBy
    head
    tail
    ;
in
key: list:
concatMap (
  same:
  map (again: {
    first = head same;
    inherit again;
  }) (tail same)
) (attrValues (groupBy key list))
