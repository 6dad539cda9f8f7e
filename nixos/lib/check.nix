# Checks of single values. A check takes where a value stands and the value, and returns what is
# wrong with it: a list of lines "where: problem; fix", empty when the value is good.
#
# Used by ./schema.nix, which says what a fleet is made of.
let
  inherit (builtins)
    attrNames
    concatLists
    concatStringsSep
    elem
    elemAt
    filter
    genList
    isAttrs
    isBool
    isInt
    isList
    isString
    length
    match
    stringLength
    toJSON
    typeOf
    ;

  # A value as a person may read it back. A long string is not cut: that could split a character.
  show =
    value:
    if isString value && stringLength value > 60 then
      "a string of ${toString (stringLength value)} bytes"
    else if isString value || isInt value || isBool value || value == null then
      toJSON value
    else
      {
        float = "a number with a fraction";
        lambda = "a function";
        list = "a list";
        path = "a path";
        set = "a set";
      }
      .${typeOf value};

  # `a.b`, quoted where Nix would need it.
  at =
    where: name:
    let
      plain = stringLength name <= 60 && match "[a-zA-Z_][a-zA-Z0-9_'-]*" name != null;
      key = if plain then name else show name;
    in
    if where == "" then key else "${where}.${key}";

  is =
    test: problem: fix: where: value:
    if test value then [ ] else [ "${where}: ${problem value}; ${fix value}" ];
in
rec {
  inherit show at;

  words = concatStringsSep ", ";

  # Whether a check has nothing to say.
  accepts = check: value: check "" value == [ ];

  # Both checks' problems are worth telling only when the first has none.
  both =
    first: second: where: value:
    let
      problems = first where value;
    in
    if problems == [ ] then second where value else problems;

  # A check of a kind of its own: `test` decides, the others say what is wrong and what to do.
  custom = { test, problem, fix }: is test problem fix;

  int =
    {
      min,
      max,
      unit ? "",
    }:
    is (value: isInt value && min <= value && value <= max)
      (value: "${show value} is not a whole number from ${toString min} to ${toString max}${unit}")
      (
        value:
        if isString value && match "[0-9]+" value != null then
          "write it without quotes"
        else
          "give one in that range"
      );

  bool = is isBool (value: "${show value} is neither true nor false") (_: "write true or false");

  text = is (value: isString value && value != "" && stringLength value <= 4096) (
    value: "${show value} is not a text"
  ) (_: "give a string of 1 to 4096 characters");

  string = is isString (value: "${show value} is not a string") (_: "write it in quotes");

  oneOf =
    what: known:
    is (value: isString value && elem value known) (value: "${show value} is not a ${what}") (
      _: "use one of: ${words known}"
    );

  # No pattern here is for more than 64 bytes; `match` overflows its stack on very long strings.
  matching =
    what: pattern: fix:
    is (value: isString value && stringLength value <= 64 && match pattern value != null) (
      value: "${show value} is not a ${what}"
    ) (_: fix);

  listOf =
    check: where: value:
    if isList value then
      concatLists (genList (i: check "${where}[${toString i}]" (elemAt value i)) (length value))
    else
      [ "${where}: ${show value} is not a list; write [ … ]" ];

  # A set whose keys a person chooses.
  attrsOf =
    { key, value }:
    where: given:
    if isAttrs given then
      concatLists (
        map (name: key (at where name) name ++ value (at where name) given.${name}) (attrNames given)
      )
    else
      [ "${where}: ${show given} is not a set; write { NAME = …; }" ];

  # A set of known fields: others are refused, each given one is checked. Null is as good as absent.
  record =
    {
      required ? { },
      optional ? { },
    }:
    where: given:
    let
      fields = required // optional;
      known = attrNames fields;
      unknown = filter (name: !(fields ? ${name})) (attrNames given);
      isGiven = name: given.${name} or null != null;
      missing = filter (name: !(isGiven name)) (attrNames required);
      present = filter isGiven known;
    in
    if isAttrs given then
      map (name: "${at where name}: is not a known field; known here: ${words known}") unknown
      ++ map (name: "${at where name}: is missing; add it") missing
      ++ concatLists (map (name: fields.${name} (at where name) given.${name}) present)
    else
      [ "${if where == "" then "the fleet" else where}: ${show given} is not a set; write { ${words known} }" ];
}
