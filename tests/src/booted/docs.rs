//! Manuals whose commands are run: their blocks of ```console.
//!
//! A command begins with `h1# `, `h2# ` or `both# `; a here-document goes on to its end. What follows without such a prompt
//! is what the command prints, in this order: `…` stands for any text of a line, a line of it alone for any lines.
use super::Booted;

const PROMPTS: [(&str, &[&str]); 3] = [("h1# ", &["h1"]), ("h2# ", &["h2"]), ("both# ", &["h1", "h2"])];
const ANY: &str = "…";

/// A command, and what its reader is told that it prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The line that it is in, from 1.
    pub line: usize,
    /// Where it is run, one after the other.
    pub hosts: &'static [&'static str],
    /// For bash.
    pub command: String,
    /// Lines that it prints, with `…`.
    pub printed: Vec<String>,
}

/// The commands of all blocks.
///
/// # Panics
/// At a block that does not begin with a command, and at a here-document without its end.
pub fn steps(manual: &str) -> Vec<Step> {
    let (mut steps, mut inside) = (Vec::<Step>::new(), false);
    let mut lines = manual.lines().enumerate().map(|(at, line)| (at + 1, line));
    while let Some((at, line)) = lines.next() {
        if line.starts_with("```") {
            inside = line == "```console";
            continue;
        }
        if !inside {
            continue;
        }
        let prompt = PROMPTS.iter().find_map(|(prompt, hosts)| Some((*hosts, line.strip_prefix(prompt)?)));
        let Some((hosts, command)) = prompt else {
            let step = steps.last_mut().unwrap_or_else(|| panic!("line {at} belongs to no command: {line}"));
            step.printed.push(line.to_owned());
            continue;
        };
        let mut command = command.to_owned();
        let until = end_of_document(&command);
        while let Some(until) = &until {
            let (_, more) = lines.next().unwrap_or_else(|| panic!("the document of line {at} has no end"));
            command.push('\n');
            command.push_str(more);
            if more == until {
                break;
            }
        }
        steps.push(Step { line: at, hosts, command, printed: Vec::new() });
    }
    steps
}

/// What ends the here-document that a command begins.
fn end_of_document(command: &str) -> Option<String> {
    let (_, word) = command.split_once("<<")?;
    let word = word.trim_start_matches('-').split([' ', ';', '|', '>']).next()?;
    Some(word.trim_matches(['\'', '"']).to_owned())
}

/// Runs the commands of a manual as they stand, on the hosts that they name.
///
/// # Panics
/// At the first that fails, or prints something else.
pub fn check(manual: &str, text: &str, hosts: &[&Booted]) {
    for step in steps(text) {
        for name in step.hosts {
            let host = hosts.iter().find(|host| host.name() == *name).expect("a host of that name");
            let output = host.try_shell(&step.command);
            let said = format!("{manual}:{}: {name}# {}\n{}", step.line, step.command, output.stdout);
            assert_eq!(output.exit, 0, "{said}");
            if let Err(missing) = follow(&step.printed, &output.stdout) {
                panic!("{said}\n{missing:?} is not printed there, or not in this order");
            }
        }
    }
}

/// Whether the lines are printed in this order; the first that is not.
fn follow<'a>(told: &'a [String], printed: &str) -> Result<(), &'a str> {
    let mut printed = printed.lines();
    for line in told.iter().map(|line| line.trim()).filter(|line| !line.is_empty() && *line != ANY) {
        if !printed.any(|is| matches(line, is.trim())) {
            return Err(line);
        }
    }
    Ok(())
}

/// Whether a line is as told, runs of blanks counting as one.
fn matches(told: &str, line: &str) -> bool {
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (told, line) = (squeezed(told), squeezed(line));
    let parts: Vec<&str> = told.split(ANY).map(str::trim).collect();
    let [first, middle @ .., last] = parts.as_slice() else { return told == line };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_as_their_readers_read_them() {
        let manual = "text\n```text\nh1# not run\n```\n```console\nboth# one\nh2# cat > f <<'END'\na\nEND\nprinted …\n```\n";
        let found = steps(manual);
        let of = |step: &Step| (step.line, step.hosts.len(), step.command.clone(), step.printed.clone());
        assert_eq!(of(&found[0]), (6, 2, "one".to_owned(), vec![]));
        assert_eq!(of(&found[1]), (7, 1, "cat > f <<'END'\na\nEND".to_owned(), vec!["printed …".to_owned()]));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn what_is_told_is_found_in_order_and_nothing_else_passes() {
        let printed = "NAME   ADDRESS\nweb    10.1.2.3/24  serving\n";
        let told = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        for right in
            [&["web 10.…/24 serving"][..], &["NAME ADDRESS", "…", "web … serving"], &["web…"], &["…"]]
        {
            assert_eq!(follow(&told(right), printed), Ok(()), "{right:?}");
        }
        for wrong in [&["web"][..], &["web …", "NAME …"], &["… ready"], &["web 11.… serving"]] {
            assert!(follow(&told(wrong), printed).is_err(), "{wrong:?}");
        }
    }
}
