//! The scenarios that are text: `tests/scenarios/*.txt`, each under its file's name.
use std::path::Path;

use tests::runner::Scenario;
use tests::script;

pub(crate) fn all() -> Vec<Scenario> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let entries = std::fs::read_dir(directory).expect("the directory of scenarios").flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    let scenario = |path: std::path::PathBuf| {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("a readable scenario");
        let once = text.lines().any(|line| line.starts_with("# once:"));
        let scenario = Scenario::new(name.clone(), move |sandbox| script::run(sandbox, &name, &text));
        if once { scenario.once() } else { scenario }
    };
    paths.into_iter().map(scenario).collect()
}
