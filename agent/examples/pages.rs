//! What a package holds beside the program: manual pages and completions from the command line's own grammar, and a sample of
//! all settings.
//!
//! `cargo run -p agent --example pages -- DIRECTORY`
use std::fs;
use std::io;
use std::path::Path;

use clap_complete::Shell;

/// System administration (man-pages(7)).
const SECTION: &str = "8";

fn main() -> io::Result<()> {
    let Some(directory) = std::env::args_os().nth(1) else {
        return Err(io::Error::other("say where to: cargo run -p agent --example pages -- DIRECTORY"));
    };
    let directory = Path::new(&directory);
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    // Pages of verbs that are no more must not be packed.
    match fs::remove_dir_all(&man) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::create_dir_all(&man)?,
    }
    fs::create_dir_all(&completions)?;
    let mut command = agent::cli::command().disable_help_subcommand(true);
    command.build();
    write_pages(&man, &command, "svc-agent")?;
    for (shell, file) in
        [(Shell::Bash, "svc-agent"), (Shell::Zsh, "_svc-agent"), (Shell::Fish, "svc-agent.fish")]
    {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut agent::cli::command(), "svc-agent", &mut text);
        fs::write(completions.join(file), text)?;
    }
    fs::write(directory.join("config.sample.toml"), agent::config::sample())
}

/// A page for each verb, and of the verbs below it.
fn write_pages(directory: &Path, command: &clap::Command, name: &str) -> io::Result<()> {
    let page = clap_mangen::Man::new(command.clone())
        .title(name.to_uppercase())
        .section(SECTION)
        .source(format!("svc-agent {}", agent::version()))
        .manual("svc-agent");
    let mut text = Vec::new();
    page.render(&mut text)?;
    let text = String::from_utf8(text).map_err(io::Error::other)?;
    fs::write(directory.join(format!("{name}.{SECTION}")), with_examples(&text))?;
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        write_pages(directory, verb, &format!("{name}-{}", verb.get_name()))?;
    }
    Ok(())
}

/// What stands below a verb's help becomes sections of their names, and its examples keep their lines: by itself the text
/// would be filled into one paragraph, under EXTRA.
fn with_examples(page: &str) -> String {
    let Some((before, extra)) = page.split_once(".SH EXTRA\n") else { return page.to_owned() };
    let (notes, examples) = extra.split_once("Examples:\n").unwrap_or((extra, ""));
    let mut text = before.to_owned();
    if !notes.trim().is_empty() {
        text.push_str(&format!(".SH NOTES\n{}\n", notes.trim().replace('\n', "\n.br\n")));
    }
    if !examples.is_empty() {
        text.push_str(&format!(".SH EXAMPLES\n.EX\n{}\n.EE\n", examples.trim_end()));
    }
    text
}
