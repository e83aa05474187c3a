//! Templates: the same bytes from a stock cluster, from an engine of ours and natively.

use std::time::Duration;

use anyhow::{Result, ensure};
use waxseal_tests::{Cli, Dockerd, NetworkNamespace, eventually, scenario};

/// Until tasks have moved.
const SOON: Duration = Duration::from_secs(40);

const SECRET: &[u8] = "p@ss w&rd/ä {{.Task.ID}}".as_bytes();
/// What a secret and a config are, expanded on the node.
const PAYLOAD: &str = r#"
url = postgres://{{ .Service.Name }}:{{ secret "pw" | urlquery }}@{{ env "HOST" }}/{{ config "plain" }}
{{- /* no line for this */ -}}
{{ if eq .Task.Slot "1" }}
first of {{ .Service.Labels }}{{ else if .Task.Slot }}other{{ else }}none{{ end }}
[{{ .Node.Hostname }}|{{ .Node.Platform.OS }}|{{ .Node.Platform.Architecture }}]
{{ index .Service.Labels "com.example/tier" | printf "%s-%d-%v%%" "tier" 5 }} {{ print 1 2 "x" true }}
{{ with_label }}{{ join "," .Service.ID .Node.ID .Task.ID .Task.Name }} {{ html "<a&b>" }} {{ `raw \n` }}
{{ "esc\t\x41\u00e4" }}{{ not (or "" 0 (and 1 "")) }} {{ len .Service.Labels }} {{ lt "a" "b" }} {{ println "end" 3 }}
"#;
const SHOW: &str = "cat /run/secrets/made; cat /made; echo \"$WHO\"; echo \"$LABEL\"; busybox uname -n; \
                    cat /proc/mounts | grep /scratch- | busybox cut -d' ' -f2; echo done; sleep 1000";

#[test]
fn templates_expand_alike_wherever_a_task_runs() -> Result<()> {
    scenario("templates", |scene| {
        // A stock manager makes bridges and tunnels: it gets a network of its own.
        let namespace = NetworkNamespace::new(scene)?;
        let stock = Dockerd::start(scene, "stock", Some(&namespace))?;
        let address = format!("{}:2377", stock.address);
        stock.docker.ok(&[
            "swarm",
            "init",
            "--listen-addr",
            &address,
            "--advertise-addr",
            &address,
        ])?;
        let manager = scene.waxseal("manager")?;
        manager.init(&[])?;
        let engine = scene.dockerd("engine")?;
        engine.join(&manager.worker_token()?, &manager.remote())?;
        prepare(&stock.docker)?;
        prepare(&manager.docker)?;
        let expected = shown(&stock.docker, "bb:1")?;
        ensure!(
            expected.contains("url = postgres://web:p%40ss+w%26rd"),
            "{expected}"
        );
        for image in ["bb:1", "host"] {
            let shown = shown(&manager.docker, image)?;
            ensure!(
                shown == expected,
                "{image}: {shown}\nand in stock: {expected}"
            );
        }
        faults(&manager.docker)?;
        manager.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

fn payload() -> String {
    PAYLOAD.replace("{{ with_label }}", "{{ .Service.Labels.short }}")
}

fn prepare(docker: &Cli) -> Result<()> {
    docker.ok_with_input(&["secret", "create", "pw", "-"], SECRET)?;
    docker.ok_with_input(&["config", "create", "plain", "-"], b"{{plain}}")?;
    for kind in ["secret", "config"] {
        let words = [kind, "create", "--template-driver", "golang", "made", "-"];
        docker.ok_with_input(&words, payload().as_bytes())?;
    }
    Ok(())
}

/// What the task of a service shows, with ids replaced by what they are of.
fn shown(docker: &Cli, image: &str) -> Result<String> {
    let create = [
        "service",
        "create",
        "-d",
        "--name",
        "web",
        "--no-resolve-image",
        "--network",
        "host",
        "--label",
        "com.example/tier=front",
        "--label",
        "short=s",
        "--stop-grace-period",
        "1s",
        "--secret",
        "pw",
        "--secret",
        "made",
        "--config",
        "plain",
        "--config",
        "made",
        "--env",
        "HOST=db-{{.Task.Slot}}:5432",
        "--env",
        "WHO={{.Node.Hostname}} {{.Node.Platform.OS}} {{.Node.Platform.Architecture}} {{.Task.Name}}",
        "--env",
        "LABEL={{index .Service.Labels \"com.example/tier\"}}{{if eq .Service.Name \"web\"}}!{{end}}",
        "--hostname",
        "{{.Service.Name}}-{{.Task.Slot}}",
        "--mount",
        "type=tmpfs,target=/scratch-{{.Task.Slot}}",
        image,
        "sh",
        "-c",
        SHOW,
    ];
    docker.ok(&create)?;
    let shown = eventually(format!("{image} shows its files"), SOON, || {
        let logs = docker.run(&["service", "logs", "--raw", "web"])?.out();
        let tasks = docker.ok(&["service", "ps", "--no-trunc", "web"])?;
        ensure!(logs.ends_with("done"), "{logs}\n{tasks}");
        Ok(logs)
    })?;
    let one = |words: &[&str]| docker.ok(words);
    let service = one(&["service", "inspect", "--format", "{{.ID}}", "web"])?;
    let task = one(&["service", "ps", "-q", "--no-trunc", "web"])?;
    let node = one(&[
        "inspect",
        "--type",
        "task",
        "--format",
        "{{.NodeID}}",
        &task,
    ])?;
    docker.ok(&["service", "rm", "web"])?;
    let replaced = [(service, "SERVICE"), (task, "TASK"), (node, "NODE")]
        .into_iter()
        .fold(shown, |text, (id, name)| text.replace(&id, name));
    Ok(replaced)
}

/// What cannot be expanded is refused, or fails the task with what is wrong.
fn faults(docker: &Cli) -> Result<()> {
    let words = [
        "secret",
        "create",
        "--template-driver",
        "golang",
        "bad",
        "-",
    ];
    let said = docker.fails_with_input(&words, b"hunter2\n{{ range .Service.Labels }}{{ end }}")?;
    ensure!(said.contains("line 2: `range` is not offered"), "{said}");
    ensure!(!said.contains("hunter2"), "{said}");
    let said = docker.fails(&[
        "service",
        "create",
        "-d",
        "--env",
        "PW=hunter2{{secret \"pw\"}}",
        "host",
        "true",
    ])?;
    ensure!(said.contains("works in secrets and configs only"), "{said}");
    ensure!(!said.contains("hunter2"), "{said}");
    let late = b"hunter2 {{ secret \"elsewhere\" }}";
    docker.ok_with_input(
        &[
            "secret",
            "create",
            "--template-driver",
            "golang",
            "late",
            "-",
        ],
        late,
    )?;
    for image in ["host", "bb:1"] {
        docker.ok(&[
            "service",
            "create",
            "-d",
            "--name",
            "late",
            "--no-resolve-image",
            "--secret",
            "late",
            "--restart-condition",
            "none",
            image,
            "sleep",
            "1000",
        ])?;
        eventually(format!("{image} fails with its reason"), SOON, || {
            let format = "{{.CurrentState}} {{.Error}}";
            let words = ["service", "ps", "--no-trunc", "--format", format, "late"];
            let tasks = docker.ok(&words)?;
            ensure!(
                tasks.contains("failed to expand templated secret") && tasks.contains("elsewhere"),
                "{tasks}"
            );
            ensure!(!tasks.contains("hunter2"), "{tasks}");
            Ok(())
        })?;
        docker.ok(&["service", "rm", "late"])?;
    }
    Ok(())
}
