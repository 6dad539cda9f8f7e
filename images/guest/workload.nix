# What a guest runs by itself, as the embedded builder has it (src/host/src/image/workload.rs): the
# script with its place in the image, and the manifest's `workload`. Null for who only waits.
{ role, profile }:
let
  page = {
    place = "usr/libexec/mvm/gateway";
    script = ../../src/host/src/image/base/gateway.sh;
    user = "65534:65534";
  };
  hello = {
    place = "usr/libexec/mvm/hello";
    script = ./profiles/hello/hello.sh;
    user = "1000:1000";
    health = {
      port = 8080;
      path = "/health";
    };
  };
  program =
    if profile == "hello" then
      (if role == "builder" then null else hello)
    else if role == "gateway" then
      page
    else
      null;
in
if program == null then
  null
else
  {
    inherit (program) place script;
    manifest = {
      argv = [ "/${program.place}" ];
      inherit (program) user;
      ports = [ 8080 ];
      restart = "always";
    }
    // (if program ? health then { inherit (program) health; } else { });
  }
