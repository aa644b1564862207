//! The command line: the API's only client.
//!
//! [`main`] parses; verbs that ask the agent go through [`crate::api::client`], the others through [`Host`], which the
//! binary supplies.
mod args;
mod console;
mod examples;
mod host;
mod local;
mod parse;
mod session;
mod show;
mod table;
mod verbs;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

pub use args::Output;
pub use console::Console;
pub use host::{Exit, Host, RunAgent};

use args::{Arguments, Verb};
use console::Ending;
use session::Session;

/// Does what this process's arguments say.
pub fn main(host: &dyn Host) -> ExitCode {
    let mut console = Console::standard();
    run(std::env::args_os(), host, &mut console).into()
}

/// Does what the arguments say, the program's name first; prints to `console`.
pub fn run(arguments: impl IntoIterator<Item = OsString>, host: &dyn Host, console: &mut Console) -> Exit {
    let parsed =
        command().try_get_matches_from(arguments).and_then(|matches| Arguments::from_arg_matches(&matches));
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(error) => return console.grammar(&error),
    };
    console.set_output(arguments.common.output);
    match dispatch(arguments, host, console) {
        Ok(exit) => exit,
        Err(ending) => console.ending(&ending),
    }
}

/// The whole grammar, for shell completions and manual pages.
pub fn command() -> clap::Command {
    Arguments::command()
}

fn dispatch(arguments: Arguments, host: &dyn Host, console: &mut Console) -> Result<Exit, Ending> {
    let Arguments { common, verb } = arguments;
    match verb {
        Verb::Keygen => Ok(host.keygen()?),
        Verb::Run(run) => local::run(run, &common, host),
        Verb::Hold(config) => local::hold(&config, &common, host),
        Verb::Doctor(config) => local::doctor(&config, &common, host),
        Verb::Ports(config) => local::ports(&config, &common, host),
        Verb::Demo(demo) => Ok(host.demo(demo.keep, common.output)?),
        Verb::Config(verb) => local::config(verb, &common, console),
        asking => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| local::broken("start a runtime", &error))?;
            let mut session = Session::new(&common, console);
            // `version` says both anyway.
            let compares = matches!(asking, Verb::Version);
            let ended = runtime.block_on(verbs::ask(asking, &mut session));
            if !compares {
                session.warn_of_other_version();
            }
            ended
        }
    }
}
