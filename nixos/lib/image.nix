# The check of a pool's image, by the rules of the Rust types ImageSource and FlakeRef.
{
  digest,
  name,
  role,
}:
let
  check = import ./check.nix;
  inherit (builtins)
    attrNames
    isAttrs
    isString
    match
    stringLength
    ;
  inherit (check)
    at
    custom
    oneOf
    record
    show
    text
    words
    ;

  # What the embedded builder makes; a flake has profiles of its own.
  profile = oneOf "profile" [
    "minimal"
    "hello"
    "node"
    "openclaw"
  ];

  # What each kind of image has besides its kind.
  kinds = {
    embedded = {
      required = { inherit profile; };
      optional = { inherit role; };
    };
    flake = {
      required = {
        profile = name;
        ref = flakeRef;
      };
      optional = { inherit role; };
    };
    revision.required = { inherit digest; };
  };

  flakeRef = custom {
    test = value: isString value && stringLength value <= 1024 && match forms value != null;
    problem = value: "${show value} is not a flake reference";
    fix = _: "write a path, github:OWNER/REPO or git+https://HOST/REPO, without credentials or '#'";
  };
  forms =
    let
      rest = "[A-Za-z0-9._~:/%+,=-]*";
      path = "(path:)?([.][.]?|[.][.]?/[^#?[:cntrl:]]*|/[^#?[:cntrl:]]*)";
      registered = "(flake:)?[A-Za-z][A-Za-z0-9_-]*(/[A-Za-z0-9._/-]+)?";
      forge = "(github|gitlab|sourcehut):~?[A-Za-z0-9._%-]+/[A-Za-z0-9._-]+(/[A-Za-z0-9._/%+-]+)?";
      https = "(https|git[+]https|tarball[+]https|hg[+]https)://[A-Za-z0-9]${rest}";
      ssh = "(git|hg)[+]ssh://([A-Za-z0-9._-]+@)?[A-Za-z0-9]${rest}";
      file = "(git|tarball)[+]file:///${rest}";
      known = "dir|ref|rev|narHash|submodules|shallow|allRefs|host|lfs|lastModified|revCount";
      parameter = "(${known})=${rest}";
    in
    "(${path}|${registered}|${forge}|${https}|${ssh}|${file})([?]${parameter}(&${parameter})*)?";
in
where: value:
let
  kind = value.kind or null;
  of = kinds.${kind};
in
if isAttrs value && !(isString kind && kinds ? ${kind}) then
  [ "${at where "kind"}: ${show kind} is not a kind of image; use one of: ${words (attrNames kinds)}" ]
else
  record (if isAttrs value then of // { required = of.required // { kind = text; }; } else { }) where value
