//! Templates of secrets and configs, read and expanded.

use std::{cell::Cell, collections::BTreeMap};

use waxseal_secrets::{Place, TaskFiles, TaskNames, Template};

use crate::Target;

/// What an expansion may come to here.
const LIMIT: usize = 4096;
/// In the files, never in what an error says.
const MARKER: &str = "fuzzmarker";

pub(crate) fn targets() -> Vec<Target> {
    vec![Target {
        name: "template",
        words: &[
            "{{",
            "}}",
            "{{- ",
            " -}}",
            "{{/*",
            "*/}}",
            "{{if ",
            "{{else}}",
            "{{else if ",
            "{{end}}",
            ".Service.Labels",
            ".Service.Labels.a",
            ".Task.Slot",
            "secret \"a\"",
            "config `b`",
            "env \"C\"",
            "printf \"%s%d%v%%\"",
            "index .Service.Labels \"a\"",
            "join \",\"",
            "urlquery",
            "html",
            "eq ",
            "and ",
            "or ",
            "not ",
            "len ",
            "print ",
            " | ",
            "(",
            ")",
            "\"\\u00e4\\x41\\101\"",
            "range",
            "with",
            "$x := ",
            "true",
            "-3",
            "\n",
        ],
        // A node of the parsed template for each few bytes of its text.
        room: (256 << 10, 256),
        seeds,
        check,
    }]
}

fn seeds() -> Vec<Vec<u8>> {
    [
        "postgres://{{.Service.Name}}:{{secret \"a\" | urlquery}}@{{env \"C\"}}/x",
        "{{if eq .Task.Slot \"1\"}}a{{else if and .Service.Labels.a true}}b{{else}}c{{end}}",
        "x {{- /* c */ -}} y {{ printf \"%s-%d\" (join \",\" \"a\" \"b\") (len .Service.Labels) }}",
        "{{ index .Service.Labels \"a\" | html | print 1 2 }}{{ `{{` }}",
        "{{config \"b\"}}{{not (or 0 \"\")}}{{lt 1 2}}{{println true .Node.Platform.OS}}",
    ]
    .map(|seed| seed.as_bytes().to_vec())
    .into()
}

struct Files {
    /// One was read: the result may have the marker in it.
    is_read: Cell<bool>,
}

impl TaskFiles for Files {
    fn secret(&self, target: &[u8]) -> Option<&[u8]> {
        self.is_read.set(true);
        (target == b"a").then_some(MARKER.as_bytes())
    }

    fn config(&self, target: &[u8]) -> Option<&[u8]> {
        (target == b"b").then_some(b"{{config}}")
    }

    fn env(&self, name: &[u8]) -> Option<&[u8]> {
        (name == b"C").then_some(b"host:1")
    }
}

fn check(input: &[u8]) -> String {
    // A field has no files: what it takes, a payload takes too.
    let in_field = Template::parse(input, Place::Field).is_ok();
    let template = match Template::parse(input, Place::Payload) {
        Ok(template) => template,
        Err(error) => {
            assert!(!in_field, "a payload refuses what a field takes: {error}");
            let lines = 1 + input.iter().filter(|byte| **byte == b'\n').count();
            assert!((1..=lines).contains(&error.line), "{error}");
            return outcome(&error.fault);
        }
    };
    let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
    let names = TaskNames {
        service_id: "s",
        service_name: "web",
        service_labels: &labels,
        node_id: "n",
        node_hostname: "h",
        node_architecture: "x86_64",
        node_os: "linux",
        task_id: "t",
        task_name: "web.1.t",
        task_slot: "1",
    };
    let files = Files {
        is_read: Cell::new(false),
    };
    match template.expand(&names, &files, LIMIT) {
        Ok(expanded) => {
            assert!(expanded.len() <= LIMIT);
            assert_eq!(
                expanded.len(),
                expanded.capacity(),
                "grown while it was made"
            );
            let is_plain = !input.windows(2).any(|part| part == b"{{");
            assert!(
                !is_plain || *expanded == input,
                "text without actions changed"
            );
            format!("expanded, {} secrets", u8::from(files.is_read.get()))
        }
        Err(error) => {
            let text = error.to_string();
            // A template may hold the word itself as the name of a target.
            let is_written = String::from_utf8_lossy(input).contains(MARKER);
            assert!(is_written || !text.contains(MARKER), "{text}");
            outcome(&error.fault)
        }
    }
}

/// The kind of a fault, without what differs from input to input.
fn outcome(fault: &waxseal_secrets::TemplateFault) -> String {
    use waxseal_secrets::TemplateFault::{NoLabel, NoTarget};
    match fault {
        NoLabel { .. } => "no label".to_owned(),
        NoTarget { kind, .. } => format!("no {kind}"),
        other => format!("{other:?}"),
    }
}
