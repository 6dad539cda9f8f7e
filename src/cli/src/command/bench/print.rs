//! The figures for people.

use std::collections::BTreeMap;

use mvm_agent::error::Result;

use super::burst::{Cycles, Held, Wakes};
use super::series::Series;
use super::vmm::Wake;
use super::{Figures, fleet, guest};
use crate::output;

/// Prints everything that was measured.
pub fn print(figures: &Figures) -> Result<()> {
    output::pairs(&[("Machine", figures.machine.clone()), ("Rounds", figures.rounds.to_string())])?;
    if let Some(wake) = &figures.vmm_wake {
        print_wake(wake)?;
    }
    if let Some(wakes) = &figures.wakes {
        print_wakes(wakes)?;
    }
    if let Some(fleet) = &figures.fleet {
        print_fleet(fleet)?;
    }
    if let Some(guest) = &figures.guest {
        print_guest(guest)?;
    }
    Ok(())
}

fn print_wake(wake: &Wake) -> Result<()> {
    match wake {
        Wake::NotMeasured(reason) => output::pairs(&[("Wake, VMM's part", not_measured(reason))]),
        Wake::Measured(wake) => output::pairs(&[
            ("Wake, VMM's part", wake.conditions.clone()),
            ("  by a script", format!("{} ms", wake.bare_ms)),
            ("  fresh", format!("{} ms, ratio {:.2}", wake.fresh_ms, wake.fresh_ratio)),
            ("  it waited", format!("{} ms, ratio {:.2}", wake.waited_ms, wake.waited_ratio)),
            ("  parts", parts(&wake.phases_ms)),
        ]),
    }
}

fn parts(phases: &BTreeMap<String, Series>) -> String {
    let part = |(name, took): (&String, &Series)| format!("{name} {:.1}", took.median);
    phases.iter().map(part).collect::<Vec<_>>().join(", ")
}

fn not_measured(reason: &str) -> String {
    format!("not measured: {reason}")
}

fn print_wakes(wakes: &Wakes) -> Result<()> {
    let figures = match wakes {
        Wakes::NotMeasured(reason) => {
            return output::pairs(&[("Many wakes", not_measured(reason))]);
        }
        Wakes::Measured(figures) => figures,
    };
    let name = format!("{} at once", figures.at_once);
    output::pairs(&[
        ("One wake", format!("{} ms (a fake in the jail)", figures.one_ms)),
        ("Warm to running", format!("{} ms without VMM and guest", figures.unwarm_ms)),
        (
            &name,
            format!(
                "{} of {}, {} ms, p99 {:.1} ms: {:.1} times one; from its turn on {:.1} ms: \
                 {:.1} times; {} slow",
                figures.succeeded,
                figures.asked,
                figures.burst_ms,
                figures.burst_p99_ms,
                figures.burst_ratio,
                figures.admitted_p99_ms,
                figures.admitted_ratio,
                figures.slow
            ),
        ),
        ("Cycles", cycles(&figures.cycles)),
    ])
}

fn cycles(cycles: &Cycles) -> String {
    let held = |held: &Held| {
        format!(
            "{} descriptors, {} KiB, {} processes, {} jails, {} MiB on disk",
            held.descriptors, held.resident_kib, held.processes, held.jails, held.state_mib
        )
    };
    format!(
        "{} of {} ms; before: {}; after: {}",
        cycles.count,
        cycles.cycle_ms,
        held(&cycles.before),
        held(&cycles.after)
    )
}

fn print_guest(guest: &guest::Figures) -> Result<()> {
    let ready = guest.guest_ready_after_ms;
    output::pairs(&[
        ("VMM", guest.vmm.clone()),
        ("Guest", guest.guest.clone()),
        (
            "Guest agent",
            format!(
                "{}, {} KiB resident",
                output::bytes(guest.guest_agent_bytes),
                guest.guest_agent_resident_kib
            ),
        ),
        ("PID 1 to ready", ready.map_or("unknown".into(), |ms| format!("{ms} ms"))),
        ("Boot / bare qemu", guest.boot_ratio_to_bare.to_string()),
        (
            "Wakes at once",
            format!(
                "{} of {}, {} ms",
                guest.at_once.succeeded, guest.at_once.guests, guest.at_once.wake_ms
            ),
        ),
    ])?;
    output::line("")?;
    let cell = |value: f64| format!("{value:.1}");
    let row = |(name, series): (&String, &Series)| {
        vec![name.clone(), cell(series.min), cell(series.median), cell(series.max)]
    };
    let header = ["milliseconds", "min", "median", "max"];
    output::table(&header, guest.times_ms.iter().map(row).collect(), "nothing was measured")
}

fn print_fleet(fleet: &fleet::Figures) -> Result<()> {
    output::pairs(&[
        (
            "No-op reconcile",
            format!(
                "{} ms of {} pretended instances (CPU {} ms, {} KiB resident)",
                fleet.reconcile_noop_ms,
                fleet.reconciled,
                fleet.reconcile_cpu_ms,
                fleet.resident_kib
            ),
        ),
        (
            "Adoption",
            format!(
                "{} ms from the start of an agent, after one that was killed, with {} pretended \
                 VMs running; none started again",
                fleet.adopted_ms, fleet.reconciled
            ),
        ),
        ("Instance list", format!("{} ms of {} instances", fleet.list_ms, fleet.listed)),
    ])
}
