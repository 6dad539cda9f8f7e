//! Talking to a guest: commands, terminals, files, its workload.

use std::fs;
use std::time::Duration;

use crate::common::terminal::Terminal;
use crate::common::{Outcome, World};
use crate::setup::{GATEWAYS, WORKERS};

pub fn exec_passes_code_streams_and_user(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[0];
    let exec = |script: &str| world.run(&["instance", "exec", worker, "--", "sh", "-c", script]);
    assert_eq!(exec("exit 7").status.code(), Some(7));
    let output = exec("echo out; echo err >&2");
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice()),
        (&b"out\n"[..], &b"err\n"[..])
    );
    let output =
        world.run_with_input(&["instance", "exec", worker, "--", "tr", "a-z", "A-Z"], b"shout\n");
    assert_eq!(output.stdout, b"SHOUT\n");
    let output = world.run(&["instance", "exec", "--user", "1000:1000", worker, "--", "id", "-u"]);
    assert_eq!(output.stdout, b"1000\n");
    assert_eq!(exec("no-such-program").status.code(), Some(127));
    world.refused(&["instance", "exec", worker, "--", "/no/such/program"], 127);
    Outcome::Passed
}

pub fn a_shell_follows_its_terminal(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[0];
    let limit = Duration::from_secs(20);
    let mut terminal = Terminal::start(world.command(&["instance", "ssh", worker]), 24, 80);
    terminal.kind("stty size; echo size-$((1+1))\n");
    terminal.expect("24 80", limit);
    terminal.expect("size-2", limit);
    terminal.resize(50, 132);
    // The new size travels on its own; asking until it is there is no race.
    terminal.kind("until stty size | grep -q 132; do :; done; stty size\n");
    terminal.expect("50 132", limit);
    terminal.kind("exit 3\n");
    assert_eq!(terminal.end(limit), Some(3));
    assert_eq!(world.status(worker), "running");
    Outcome::Passed
}

pub fn fifty_megabytes_travel_both_ways(world: &World) -> Outcome {
    let worker = &world.members(WORKERS)[0];
    let (there, back) = (world.path("there"), world.path("back"));
    let mut bytes = vec![0u8; 50 << 20];
    let mut state = 0x9e37_79b9_u32;
    for chunk in bytes.chunks_mut(4) {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
    fs::write(&there, &bytes).expect("a file is written");
    let remote = format!("{worker}:/data/big");
    world.ok(&["instance", "cp", &there.to_string_lossy(), &remote]);
    let inside = world.guest(worker, "sha256sum /data/big | cut -d' ' -f1");
    let outside = world.tool("sha256sum", &[&there.to_string_lossy()]);
    assert_eq!(Some(inside.as_str()), outside.split(' ').next());
    world.ok(&["instance", "cp", &remote, &back.to_string_lossy()]);
    assert_eq!(fs::read(&back).expect("a file came back"), bytes);
    world.guest(worker, "rm /data/big");
    Outcome::Passed
}

pub fn a_workload_that_ends_is_started_again(world: &World) -> Outcome {
    let gateway = &world.members(GATEWAYS)[0];
    let answers =
        || world.guest_can(gateway, "wget -q -O- http://127.0.0.1:8080/ | grep -qi gateway");
    world.eventually("the gateway answers", Duration::from_secs(20), answers);
    let server = "ps | grep '[h]ttpd -f' | awk '{print $1}'";
    let before = world.guest(gateway, server);
    assert!(!before.is_empty());
    world.guest(gateway, &format!("kill -9 {before}"));
    world.eventually("it answers again", Duration::from_secs(20), answers);
    assert_ne!(world.guest(gateway, server), before);
    Outcome::Passed
}
