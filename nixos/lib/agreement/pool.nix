# What a pool must agree on with itself: protection with what it asks for, and its idle times.
let
  inherit (builtins) any;

  rule = broken: problem: if broken then [ problem ] else [ ];
in
tenant: pool:
let
  inherit (pool) counts idle where;
  pinned = pool.pinned || tenant.pinned;
  wants = status: counts.${status} > 0 || any (instance: instance.desired == status) pool.named;
  parks = idle.warm_after_seconds != null || idle.sleep_after_seconds != null;
in
rule ((pinned || pool.critical) && wants "sleeping")
  "${where}: it is ${if pool.critical then "critical" else "pinned"}, so nothing in it may sleep; ask for running instead, or take the protection away"
++
  rule (pool.critical && wants "warm")
    "${where}: it is critical, so nothing in it may be warm; ask for running instead, or take critical away"
++
  rule (parks && idle.keep_running > counts.running)
    "${where}.idle.keep_running: ${toString idle.keep_running} is above desired_counts.running ${toString counts.running}; raise running or lower keep_running"
++
  rule
    (
      idle.warm_after_seconds != null
      && idle.sleep_after_seconds != null
      && idle.sleep_after_seconds < idle.warm_after_seconds
    )
    "${where}.idle.sleep_after_seconds: ${toString idle.sleep_after_seconds} is below warm_after_seconds ${toString idle.warm_after_seconds}, so nothing would ever be warm; raise it or leave warm_after_seconds away"
