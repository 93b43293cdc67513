//! What a new policy starts from, in each language: the shipped policies' own sources, so that it builds and passes its
//! fixtures as they do.

use std::path::PathBuf;

/// What a policy is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// A crate, with the SDK in it.
    Rust,
    /// A package of npm.
    JavaScript,
    /// A module, and what it is built with.
    Python,
}

const WIT: &str = include_str!("../../../wit/policy.wit");
const FIXTURES: &str = include_str!("scaffold/fixtures.toml");

const RUST: &str = include_str!("../../../policies/standard/src/lib.rs");
const CARGO: &str = include_str!("scaffold/Cargo.toml.txt");
const SDK_CARGO: &str = include_str!("scaffold/sdk-Cargo.toml.txt");
const SDK: [(&str, &str); 6] = [
    ("lib.rs", include_str!("../../../policies/sdk/src/lib.rs")),
    ("bump.rs", include_str!("../../../policies/sdk/src/bump.rs")),
    ("money.rs", include_str!("../../../policies/sdk/src/money.rs")),
    ("quota.rs", include_str!("../../../policies/sdk/src/quota.rs")),
    ("settings.rs", include_str!("../../../policies/sdk/src/settings.rs")),
    ("verdict.rs", include_str!("../../../policies/sdk/src/verdict.rs")),
];

const JAVASCRIPT: &str = include_str!("../../../policies/examples/javascript/javascript.js");
const JAVASCRIPT_LIMITS: &str = include_str!("../../../policies/examples/javascript/javascript.toml");
const PACKAGE: &str = include_str!("../../../policies/examples/javascript/package.json");

const PYTHON: &str = include_str!("../../../policies/examples/python/policy.py");
const PYTHON_LIMITS: &str = include_str!("../../../policies/examples/python/python.toml");

/// The files of a policy called `name`, by their paths in its folder, and the commands that install what it needs.
pub fn files(name: &str, language: Language) -> Vec<(PathBuf, String)> {
    let mut files = vec![
        (format!("{name}.fixtures.toml"), FIXTURES.replace("NAME", name)),
        (".gitignore".to_owned(), "/target\n/node_modules\n/.venv\n__pycache__\n".to_owned()),
        ("README.md".to_owned(), readme(name, language)),
    ];
    match language {
        Language::Rust => {
            files.push(("Cargo.toml".to_owned(), CARGO.replace("NAME", name)));
            files.push(("src/lib.rs".to_owned(), rust(name)));
            files.push(("sdk/Cargo.toml".to_owned(), SDK_CARGO.to_owned()));
            files.push(("sdk/wit/policy.wit".to_owned(), WIT.to_owned()));
            // In its checkout the interface lies elsewhere.
            let source = |text: &str| text.replace("path: \"../../wit\"", "path: \"wit\"");
            files.extend(SDK.map(|(file, text)| (format!("sdk/src/{file}"), source(text))));
        }
        Language::JavaScript => {
            let named = JAVASCRIPT.replace("name: \"javascript\"", &format!("name: {name:?}"));
            files.push((format!("{name}.js"), named));
            files.push((format!("{name}.toml"), JAVASCRIPT_LIMITS.to_owned()));
            let package = PACKAGE.replace("tollgate-policy-javascript", &format!("tollgate-policy-{name}"));
            files.push(("package.json".to_owned(), package));
        }
        Language::Python => {
            files.push(("policy.py".to_owned(), PYTHON.replace("name=\"python\"", &format!("name={name:?}"))));
            files.push((format!("{name}.toml"), PYTHON_LIMITS.to_owned()));
        }
    }
    files.into_iter().map(|(path, text)| (path.into(), text)).collect()
}

/// What has to be run once in its parent folder before it can be built, if anything.
pub fn install_line(name: &str, language: Language) -> Option<String> {
    match language {
        Language::Rust => None,
        Language::JavaScript => Some(format!("npm install --prefix {name}")),
        Language::Python => {
            Some(format!("python3 -m venv {name}/.venv && {name}/.venv/bin/pip install componentize-py==0.25.1"))
        }
    }
}

fn rust(name: &str) -> String {
    let words = name.split(['-', '_']).map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_ascii_uppercase() + rest
    });
    RUST.replace("\"standard\"", &format!("{name:?}")).replace("Standard", &words.collect::<String>()).replace(
        "/// The policy of every tenant without a tier, and of every tier without a policy of its own.",
        &format!("/// The policy of the tier `{name}`."),
    )
}

fn readme(name: &str, language: Language) -> String {
    let source = match language {
        Language::Rust => "src/lib.rs".to_owned(),
        Language::JavaScript => format!("{name}.js"),
        Language::Python => "policy.py".to_owned(),
    };
    let install = install_line(name, language).map_or_else(String::new, |line| format!("{line}\n"));
    format!(
        "# The policy of the tier `{name}`\n\n`{source}` decides, `{name}.fixtures.toml` says what is expected of it. \
         From the folder above:\n\n```sh\n{install}tollgate policy build {name} --out built\n\
         tollgate policy test built/{name}.wasm\ntollgate policy inspect built/{name}.wasm\n```\n\n\
         Put `built/{name}.wasm` and the texts beside it into the folder that a gate serves from, and it decides for \
         the tenants of the tier `{name}`.\n"
    )
}
