{
  hosts.atlas = { };
}
