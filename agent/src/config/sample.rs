//! The sample configuration, from the doc comments.
use super::settings::SETTINGS;
use super::variable;

/// A configuration file with every setting explained, and commented out at its default.
pub fn sample() -> String {
    let mut text = String::from(
        "# Settings of svc-agent, for `svc-agent run --config FILE`.\n\
         # An environment variable goes before this file, a flag before both. What is commented out is the default.\n\
         # SIGHUP rereads the settings marked \"reloadable\"; the others need a restart, which no flow notices.\n",
    );
    for setting in SETTINGS {
        text.push('\n');
        for line in setting.doc {
            text.push_str(&format!("# {}\n", line.trim()));
        }
        let reloadable = if setting.reloadable { "; reloadable" } else { "" };
        text.push_str(&format!("# (--{}, {}{reloadable})\n", setting.key, variable(setting.key)));
        text.push_str(&format!("#{} = {}\n", setting.key, (setting.default_toml)()));
    }
    text
}
