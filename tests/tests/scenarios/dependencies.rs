//! What the workspace depends on keeps the rules of `.deny.toml`.
//!
//! cargo-deny reads the same file; here it is read without it and without a network, so
//! advisories alone are not looked at. A rule that is not understood fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use waxseal_tests::run;

const LIMIT: Duration = Duration::from_secs(60);
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    graph: Graph,
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Bans {
    multiple_versions: Deny,
    deny: Vec<Named>,
    skip: Vec<Named>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    #[serde(rename = "crate")]
    spec: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Sources {
    unknown_registry: Deny,
    unknown_git: Deny,
}

/// The only level that is used.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Deny {
    Deny,
}

struct Package {
    name: String,
    version: String,
    license: String,
    source: Option<String>,
}

impl Package {
    /// Whether `name@1.2` means it.
    fn is(&self, spec: &str) -> bool {
        let (name, version) = spec.split_once('@').unwrap_or((spec, ""));
        let rest = self.version.strip_prefix(version);
        self.name == name
            && rest
                .is_some_and(|rest| version.is_empty() || rest.is_empty() || rest.starts_with('.'))
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every package that a build for the targets takes, the tests' included, as locked.
fn packages(targets: &[String]) -> Result<Vec<Package>> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(root())
        .args(["metadata", "--format-version=1", "--locked", "--offline"]);
    for target in targets {
        command.args(["--filter-platform", target]);
    }
    let output = run(&mut command, LIMIT)?;
    ensure!(output.code == 0, "cargo metadata: {}", output.err());
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages = metadata["packages"].as_array().context("no packages")?;
    let packages = packages.iter().map(|package| Package {
        name: text(&package["name"]),
        version: text(&package["version"]),
        license: text(&package["license"]),
        source: package["source"].as_str().map(str::to_owned),
    });
    Ok(packages.collect())
}

#[test]
fn dependencies_keep_the_rules() -> Result<()> {
    let rules: Rules = toml::from_str(&fs::read_to_string(root().join(".deny.toml"))?)?;
    let packages = packages(&rules.graph.targets)?;
    ensure!(packages.len() > 100, "{} packages only", packages.len());
    // No other level is read, so this is what holds for all three.
    let Sources {
        unknown_registry: Deny::Deny,
        unknown_git: Deny::Deny,
    } = rules.sources;
    let Deny::Deny = rules.bans.multiple_versions;
    let mut faults = Vec::new();
    for package in &packages {
        let Package { name, version, .. } = package;
        if !licensed(&package.license, &rules.licenses.allow)? {
            faults.push(format!("{name} {version}: licence {}", package.license));
        }
        if let Some(ban) = rules.bans.deny.iter().find(|ban| package.is(&ban.spec)) {
            faults.push(format!("{name} {version} is banned: {}", ban.reason));
        }
        if package
            .source
            .as_deref()
            .is_some_and(|source| source != REGISTRY)
        {
            faults.push(format!("{name} {version} comes from {:?}", package.source));
        }
    }
    faults.extend(duplicates(&packages, &rules.bans.skip));
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// Packages in several versions, but for those that are skipped; and skips of nothing.
fn duplicates(packages: &[Package], skip: &[Named]) -> Vec<String> {
    let mut versions = BTreeMap::<&str, Vec<&str>>::new();
    for package in packages {
        if !skip.iter().any(|skip| package.is(&skip.spec)) {
            versions
                .entry(&package.name)
                .or_default()
                .push(&package.version);
        }
    }
    let several = versions.iter().filter(|(_, versions)| versions.len() > 1);
    let several = several.map(|(name, versions)| format!("{name}: {}", versions.join(", ")));
    let idle = skip.iter().filter(|skip| {
        let name = skip.spec.split('@').next().unwrap_or_default();
        let is_there = packages.iter().any(|package| package.is(&skip.spec));
        !is_there
            || packages
                .iter()
                .filter(|package| package.name == name)
                .count()
                < 2
    });
    several
        .chain(idle.map(|skip| format!("{} is skipped for nothing: {}", skip.spec, skip.reason)))
        .collect()
}

/// Whether an SPDX expression can be met by licences of the list.
fn licensed(expression: &str, allowed: &BTreeSet<String>) -> Result<bool> {
    // The form before SPDX, which some crates still have.
    let text = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut rest = words.as_slice();
    let met = any_of(&mut rest, allowed)?;
    ensure!(rest.is_empty(), "{expression:?} is no licence expression");
    Ok(met)
}

fn any_of(words: &mut &[&str], allowed: &BTreeSet<String>) -> Result<bool> {
    let mut met = all_of(words, allowed)?;
    while let ["OR", rest @ ..] = *words {
        *words = rest;
        met |= all_of(words, allowed)?;
    }
    Ok(met)
}

fn all_of(words: &mut &[&str], allowed: &BTreeSet<String>) -> Result<bool> {
    let mut met = one(words, allowed)?;
    while let ["AND", rest @ ..] = *words {
        *words = rest;
        met &= one(words, allowed)?;
    }
    Ok(met)
}

fn one(words: &mut &[&str], allowed: &BTreeSet<String>) -> Result<bool> {
    match *words {
        ["(", rest @ ..] => {
            *words = rest;
            let met = any_of(words, allowed)?;
            let [")", rest @ ..] = *words else {
                bail!("a licence expression is not closed");
            };
            *words = rest;
            Ok(met)
        }
        [license, "WITH", exception, rest @ ..] => {
            *words = rest;
            Ok(allowed.contains(&format!("{license} WITH {exception}")))
        }
        [license, rest @ ..] => {
            *words = rest;
            Ok(allowed.contains(*license))
        }
        [] => bail!("no licence is named"),
    }
}

#[test]
fn the_check_finds_what_it_is_to_find() -> Result<()> {
    let allowed =
        BTreeSet::from(["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned));
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("MIT AND GPL-3.0", false),
        ("(GPL-3.0 OR MIT) AND ISC", true),
        ("MIT AND (GPL-3.0 OR BSD-3-Clause)", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0", false),
    ] {
        ensure!(licensed(expression, &allowed)? == met, "{expression}");
    }
    for expression in ["", "MIT OR", "(MIT", "MIT ISC"] {
        ensure!(licensed(expression, &allowed).is_err(), "{expression:?}");
    }
    let package = |name: &str, version: &str| Package {
        name: name.to_owned(),
        version: version.to_owned(),
        license: String::new(),
        source: None,
    };
    let skip = |spec: &str| Named {
        spec: spec.to_owned(),
        reason: "test".to_owned(),
    };
    let two = [package("a", "0.2.1"), package("a", "0.21.0")];
    ensure!(duplicates(&two, &[]).len() == 1);
    ensure!(duplicates(&two, &[skip("a@0.2")]).is_empty());
    ensure!(duplicates(&two, &[skip("a@0.2"), skip("a@0.3"), skip("b")]).len() == 2);
    Ok(())
}

#[test]
fn the_product_does_not_depend_on_its_tests() -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args([
        "tree",
        "--package",
        "waxseal",
        "--edges",
        "normal,features",
        "--prefix",
        "none",
        "--locked",
        "--offline",
    ]);
    let output = run(&mut command, LIMIT)?;
    ensure!(output.code == 0, "cargo tree: {}", output.err());
    let tree = output.out();
    ensure!(tree.contains("waxseal-raft-store v"), "{tree}");
    for fault in ["waxseal-tests", "waxseal-raft-store feature \"sim\""] {
        ensure!(!tree.contains(fault), "the product takes {fault}");
    }
    Ok(())
}
