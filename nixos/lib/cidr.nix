# IPv4 networks in CIDR notation, as numbers.
let
  inherit (builtins)
    elemAt
    foldl'
    fromJSON
    isString
    match
    stringLength
    ;

  octet = "(0|[1-9][0-9]?[0-9]?)";
  notation = "${octet}[.]${octet}[.]${octet}[.]${octet}/(0|[1-9][0-9]?)";

  powerOfTwo = exponent: if exponent == 0 then 1 else 2 * powerOfTwo (exponent - 1);
in
rec {
  # "10.240.7.0/24" → { address, prefix, first, last }; null when it is not CIDR notation. `address`
  # is as written, `first` without its host bits.
  parse =
    text:
    let
      parts = if isString text && stringLength text <= 18 then match notation text else null;
      number = i: fromJSON (elemAt parts i);
      octets = map number [
        0
        1
        2
        3
      ];
      prefix = number 4;
      size = powerOfTwo (32 - prefix);
      address = foldl' (sum: byte: sum * 256 + byte) 0 octets;
      first = address / size * size;
    in
    if parts == null || builtins.any (byte: byte > 255) octets || prefix > 32 then
      null
    else
      {
        inherit address prefix first;
        last = first + size - 1;
      };

  # The network a parsed one stands for, as text.
  show =
    net:
    let
      byte =
        divisor:
        let
          shifted = net.first / divisor;
        in
        toString (shifted - shifted / 256 * 256);
    in
    "${byte 16777216}.${byte 65536}.${byte 256}.${byte 1}/${toString net.prefix}";

  overlaps = a: b: a.first <= b.last && b.first <= a.last;

  contains = outer: inner: outer.first <= inner.first && inner.last <= outer.last;
}
