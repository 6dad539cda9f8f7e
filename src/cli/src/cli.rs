//! The command line: what can be typed, and which command it runs.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::command::{
    add, agent, bench, bootstrap, check_config, completions, connect, demo, dev, doctor, events,
    image, instance, net, new, node, pool, status, stop, tenant,
};
use crate::usage;

/// Turns Linux hosts into a multi-tenant fleet of microVMs.
#[derive(Debug, Parser)]
#[command(name = "mvm", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Start here: mvm demo\n\nExit codes: 0 ok, 1 failed, 2 usage, 3 not found, \
    4 refused (policy, owner, quota, state), 5 unavailable, busy or timeout, 130 interrupted\n\n\
    With --json stdout is the result alone: of what creates or changes an object that object, as \
    'list' and 'info' show it; of 'destroy' {\"destroyed\": PATH}. A failure is one line of JSON on \
    stderr, a mistake in the arguments too: kind, message, object, hint."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show it all: two tenants of real microVMs that boot, answer, sleep and wake
    Demo(demo::Args),
    /// Prepare this host: install what is missing and prove what it can run
    Bootstrap(bootstrap::Args),
    /// Add this machine as a host
    #[command(subcommand)]
    Add(add::Command),
    /// Check this host and say what to do about what is wrong
    Doctor(doctor::Args),
    /// Make a whole deployment from a template: openclaw or hello
    New(new::Args),
    /// Show a deployment: network, pools, instances, the next commands
    Connect(connect::Args),
    /// Open a shell in your own microVM, creating and starting it when needed
    Dev(dev::Args),
    /// Turn the dev microVM off, keeping its data
    Stop(stop::Args),
    /// Show this host, its VMM, the agent and what runs
    Status(status::Args),
    /// Work with this host
    #[command(subcommand)]
    Node(node::Command),
    /// Work with tenants
    #[command(subcommand)]
    Tenant(tenant::Command),
    /// Work with pools
    #[command(subcommand)]
    Pool(pool::Command),
    /// Work with instances
    #[command(subcommand)]
    Instance(instance::Command),
    /// Work with the tenants' networks
    #[command(subcommand)]
    Net(net::Command),
    /// Work with image revisions
    #[command(subcommand)]
    Image(image::Command),
    /// Show what was done to a tenant, or to all
    Events(events::Args),
    /// Run the agent, or make this host what a desired state says
    #[command(subcommand)]
    Agent(agent::Command),
    /// Check a fleet or a desired state in a file, without applying it
    CheckConfig(check_config::Args),
    /// Print a shell's completion script
    Completions(completions::Args),
    /// Measure boot, warm, sleep and wake on this host
    Bench(bench::Args),
}

/// Parses the arguments and runs the command.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage::refuse(error),
    };
    match cli.command {
        Command::Demo(args) => demo::run(args),
        Command::Bootstrap(args) => bootstrap::run(args),
        Command::Add(command) => add::run(command),
        Command::Doctor(args) => doctor::run(args),
        Command::New(args) => new::run(args),
        Command::Connect(args) => connect::run(args),
        Command::Dev(args) => dev::run(args),
        Command::Stop(args) => stop::run(args),
        Command::Status(args) => status::run(args),
        Command::Node(command) => node::run(command),
        Command::Tenant(command) => tenant::run(command),
        Command::Pool(command) => pool::run(command),
        Command::Instance(command) => instance::run(command),
        Command::Net(command) => net::run(command),
        Command::Image(command) => image::run(command),
        Command::Events(args) => events::run(args),
        Command::Agent(command) => agent::run(command),
        Command::CheckConfig(args) => check_config::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Bench(args) => bench::run(args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
