//! The stock CLI: secrets and configs, their limits and refusals.

use anyhow::{Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use waxseal_tests::{Waxseal, scenario};

use super::texts;

/// What holds for both kinds, with what differs.
struct Kind {
    word: &'static str,
    largest: usize,
    in_use: &'static str,
}

const SECRET: Kind = Kind {
    word: "secret",
    largest: 511_999,
    in_use: "is in use by the following service",
};
const CONFIG: Kind = Kind {
    word: "config",
    largest: 1_023_999,
    in_use: "is in use by the following service",
};

#[test]
fn secrets_from_create_to_rm() -> Result<()> {
    scenario("secret", |scene| {
        let node = scene.waxseal("node")?;
        node.init(&[])?;
        walk(&node, &SECRET)?;
        // A secret's content is in no answer.
        node.docker
            .ok_with_input(&["secret", "create", "mute", "-"], b"marker content")?;
        let shown = node.docker.ok(&["secret", "inspect", "mute"])?;
        ensure!(!shown.contains("Data") && !shown.contains(&STANDARD.encode("marker content")));
        let said = node
            .docker
            .fails(&["secret", "create", "--driver", "vault", "d"])?;
        ensure!(
            said.contains("secret driver vault is not available"),
            "{said}"
        );
        for (driver, text, word) in [
            ("jinja", &b"x"[..], "template driver jinja"),
            ("golang", b"{{ range .Task }}x{{ end }}", "range"),
        ] {
            let template = ["secret", "create", "--template-driver", driver, "t", "-"];
            let said = node.docker.fails_with_input(&template, text)?;
            ensure!(said.contains(word), "{said}");
        }
        ensure!(
            node.docker
                .ok(&["secret", "ls", "--format", "{{.Name}}"])?
                .lines()
                .all(|name| { name != "d" && name != "t" })
        );
        node.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

#[test]
fn configs_from_create_to_rm() -> Result<()> {
    scenario("config", |scene| {
        let node = scene.waxseal("node")?;
        node.init(&[])?;
        walk(&node, &CONFIG)?;
        node.docker
            .ok_with_input(&["config", "create", "open", "-"], b"content")?;
        let shown = node.docker.ok(&[
            "config",
            "inspect",
            "open",
            "--format",
            "{{json .Spec.Data}}",
        ])?;
        ensure!(shown.contains(&STANDARD.encode("content")), "{shown}");
        node.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

fn walk(node: &Waxseal, kind: &Kind) -> Result<()> {
    let docker = &node.docker;
    let word = kind.word;
    let id = docker.ok_with_input(
        &[word, "create", "--label", "app=web", "db_pass", "-"],
        b"first content",
    )?;
    ensure!(id.len() == 25, "{id}");
    names(node, kind)?;
    sizes(node, kind)?;
    // Found by name, by id and by the beginning of the id; listed with filters.
    for name in ["db_pass", &id, &id[..10]] {
        let found = docker.ok(&[
            word,
            "inspect",
            name,
            "--format",
            "{{.ID}} {{.Spec.Labels.app}}",
        ])?;
        ensure!(found == format!("{id} web"), "{name}: {found}");
    }
    ensure!(docker.ok(&[word, "ls", "-q", "--filter", "label=app=web"])? == id);
    ensure!(docker.ok(&[word, "ls", "-q", "--filter", "name=db_"])? == id);
    ensure!(
        docker
            .ok(&[word, "ls", "-q", "--filter", "name=b_pass"])?
            .is_empty()
    );
    let said = docker.fails(&[word, "inspect", "nothing"])?;
    ensure!(said.contains("nothing"), "{said}");
    labels_only(node, kind, &id)?;
    in_use(node, kind)?;
    ensure!(docker.ok(&[word, "rm", "db_pass"])? == "db_pass");
    docker.refused(
        &[word, "rm", "db_pass"],
        &format!("{word} db_pass not found"),
    )?;
    ambiguous(node, kind)
}

fn names(node: &Waxseal, kind: &Kind) -> Result<()> {
    let docker = &node.docker;
    let word = kind.word;
    let taken =
        |name: &str| format!("rpc error: code = AlreadyExists desc = {word} {name} already exists");
    for name in ["db_pass", "DB_PASS"] {
        docker.refused_with_input(&[word, "create", name, "-"], b"other", &taken(name))?;
    }
    let long = "a".repeat(65);
    for name in ["a b", "-a", "a-", ".a", "a/b", "ä", &long] {
        docker.refused_with_input(&[word, "create", "--", name, "-"], b"x", texts::BAD_NAME)?;
    }
    let longest = "a".repeat(64);
    docker.ok_with_input(&[word, "create", &longest, "-"], b"x")?;
    docker.ok(&[word, "rm", &longest])?;
    let unnamed = json!({"Data": "eA=="});
    let answer = node
        .engine
        .call("POST", &format!("/{word}s/create"), Some(&unnamed))?
        .expect(400)?;
    ensure!(answer.message()? == "rpc error: code = InvalidArgument desc = name must be provided");
    Ok(())
}

fn sizes(node: &Waxseal, kind: &Kind) -> Result<()> {
    let docker = &node.docker;
    let (word, largest) = (kind.word, kind.largest);
    let refusal = format!(
        "rpc error: code = InvalidArgument desc = {word} data must be larger than 0 and less than {} bytes",
        largest + 1
    );
    docker.ok_with_input(&[word, "create", "largest", "-"], &vec![b'x'; largest])?;
    docker.ok(&[word, "rm", "largest"])?;
    for size in [largest + 1, 2 * largest] {
        docker.refused_with_input(&[word, "create", "large", "-"], &vec![b'x'; size], &refusal)?;
    }
    for body in [
        json!({"Name": "empty"}),
        json!({"Name": "empty", "Data": ""}),
    ] {
        let answer = node
            .engine
            .call("POST", &format!("/{word}s/create"), Some(&body))?
            .expect(400)?;
        ensure!(answer.message()? == refusal, "{}", answer.message()?);
    }
    ensure!(
        docker
            .ok(&[word, "ls", "-q", "--filter", "name=large"])?
            .is_empty()
    );
    Ok(())
}

/// Labels may change, the content may not.
fn labels_only(node: &Waxseal, kind: &Kind, id: &str) -> Result<()> {
    let path = format!("/{}s/{id}", kind.word);
    let object = node.engine.get(&path)?;
    let update = format!("{path}/update?version={}", object["Version"]["Index"]);
    let content = STANDARD.encode("first content");
    for spec in [
        json!({"Name": "other", "Labels": {}}),
        json!({"Name": "db_pass", "Labels": {}, "Data": STANDARD.encode("second content")}),
    ] {
        let answer = node
            .engine
            .call("POST", &update, Some(&spec))?
            .expect(400)?;
        ensure!(
            answer.message()?
                == "rpc error: code = InvalidArgument desc = only updates to Labels are allowed"
        );
    }
    let spec = json!({"Name": "db_pass", "Labels": {"app": "web", "tier": "1"}, "Data": content});
    node.engine
        .call("POST", &update, Some(&spec))?
        .expect(200)?;
    let labels = &node.engine.get(&path)?["Spec"]["Labels"];
    ensure!(*labels == json!({"app": "web", "tier": "1"}), "{labels}");
    let answer = node
        .engine
        .call("POST", &update, Some(&spec))?
        .expect(500)?;
    ensure!(answer.message()? == "rpc error: code = Unknown desc = update out of sequence");
    Ok(())
}

fn in_use(node: &Waxseal, kind: &Kind) -> Result<()> {
    let docker = &node.docker;
    let word = kind.word;
    let uses = format!("--{word}");
    for service in ["one", "two"] {
        docker.ok(&[
            "service",
            "create",
            "-d",
            "--name",
            service,
            "--network",
            "host",
            "--replicas",
            "0",
            &uses,
            "db_pass",
            "host",
            "true",
        ])?;
    }
    let said = docker.fails(&[word, "rm", "db_pass"])?;
    ensure!(
        said.contains(&format!("{word} 'db_pass' {}", kind.in_use)),
        "{said}"
    );
    ensure!(
        said.contains("one") && said.contains("two"),
        "services are not named: {said}"
    );
    docker.ok(&["service", "rm", "one"])?;
    let said = docker.fails(&[word, "rm", "db_pass"])?;
    ensure!(said.ends_with(": two"), "{said}");
    docker.ok(&["service", "rm", "two"])?;
    Ok(())
}

/// Every id begins with nothing: a prefix that several have is refused.
fn ambiguous(node: &Waxseal, kind: &Kind) -> Result<()> {
    let word = kind.word;
    let mut first_letters = std::collections::BTreeMap::new();
    // 36 letters can begin an id, so the 37th repeats one.
    for number in 0..37 {
        let name = format!("many{number}");
        let id = node
            .docker
            .ok_with_input(&[word, "create", &name, "-"], b"x")?;
        let begin = id[..1].to_owned();
        *first_letters.entry(begin.clone()).or_insert(0) += 1;
        let count = first_letters[&begin];
        if count > 1 {
            let answer = node
                .engine
                .call("GET", &format!("/{word}s/{begin}"), None)?
                .expect(400)?;
            let text = format!("{word} {begin} is ambiguous ({count} matches found)");
            ensure!(answer.message()? == text, "{}", answer.message()?);
            return Ok(());
        }
    }
    anyhow::bail!("37 ids begin with 37 letters")
}
