//! What Docker Engine 20.10 made of templates in a config, and what is refused.

use super::*;

const PW: &[u8] = "p@ss w&rd/ä".as_bytes();

struct Files;

impl TaskFiles for Files {
    fn secret(&self, target: &[u8]) -> Option<&'static [u8]> {
        match target {
            b"pw" | b"/abs/pw" => Some(PW),
            b"bytes" => Some(b"\xff\x00{{"),
            b"large" => Some(&[b'x'; 500_000]),
            _ => None,
        }
    }

    fn config(&self, target: &[u8]) -> Option<&'static [u8]> {
        (target == b"other").then_some(b"other config {{raw}}")
    }

    fn env(&self, name: &[u8]) -> Option<&'static [u8]> {
        match name {
            b"PW" => Some(b"x=y"),
            b"TPL" => Some(b"1"),
            b"DUP" => Some(b"2"),
            _ => None,
        }
    }
}

fn labels() -> BTreeMap<String, String> {
    [("a", "1"), ("b.c", "2"), ("empty", "")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

fn names(labels: &BTreeMap<String, String>) -> TaskNames<'_> {
    TaskNames {
        service_id: "service1",
        service_name: "web",
        service_labels: labels,
        node_id: "node1",
        node_hostname: "",
        node_architecture: "",
        node_os: "",
        task_id: "task1",
        task_name: "web.1.task1",
        task_slot: "1",
    }
}

fn expand(text: &[u8], limit: usize) -> Result<Vec<u8>, TemplateError> {
    let labels = labels();
    let template = Template::parse(text, Place::Payload)?;
    let expanded = template.expand(&names(&labels), &Files, limit)?;
    assert_eq!(
        expanded.len(),
        expanded.capacity(),
        "grown while it was made"
    );
    Ok(expanded.to_vec())
}

fn fault(text: &str) -> String {
    expand(text.as_bytes(), 1000).unwrap_err().to_string()
}

/// Recorded from dockerd 20.10.24 (Go 1.19) as a stock manager of itself.
const ENGINE: [(&str, &str); 54] = [
    ("{{.Service.ID}}", "service1"),
    ("{{.Service.Name}}", "web"),
    ("{{.Service.Labels}}", "map[a:1 b.c:2 empty:]"),
    ("{{.Service.Labels.a}}", "1"),
    ("{{.Service.Labels.empty}}|", "|"),
    ("{{.Node.ID}}", "node1"),
    (
        "{{.Node.Hostname}}|{{.Node.Platform.Architecture}}|{{.Node.Platform.OS}}",
        "||",
    ),
    (
        "{{.Task.ID}} {{.Task.Name}} {{.Task.Slot}}",
        "task1 web.1.task1 1",
    ),
    ("a {{- /* comment */ -}} b", "ab"),
    ("a {{/* c */}} b", "a  b"),
    ("a {{- .Task.Slot -}} b", "a1b"),
    ("a {{-3}} {{- 3 }} {{ -3 }}b", "a -33 -3b"),
    (
        r#"{{"quoted \"x\" \t \\ \x41 \u00e4 \101"}}"#,
        r#"quoted "x" 	 \ A ä A"#,
    ),
    (r#"{{`raw \n "x"`}}"#, r#"raw \n "x""#),
    (
        "{{ true }} {{ false }} {{ 42 }} {{ +7 }}",
        "true false 42 7",
    ),
    (
        r#"{{secret "pw"}}|{{secret "/abs/pw"}}"#,
        "p@ss w&rd/ä|p@ss w&rd/ä",
    ),
    (r#"{{config "other"}}"#, "other config {{raw}}"),
    (
        r#"{{env "PW"}}|{{env "NONE"}}|{{env "TPL"}}|{{env "DUP"}}"#,
        "x=y||1|2",
    ),
    (r#"{{ "pw" | secret }}"#, "p@ss w&rd/ä"),
    (
        r#"{{ secret (join "" "p" "w") | urlquery }}"#,
        "p%40ss+w%26rd%2F%C3%A4",
    ),
    (
        r#"{{join "-" "a" "b" "c"}}|{{join "-"}}|{{join "-" "a"}}"#,
        "a-b-c||a",
    ),
    (r#"{{ .Task.Slot | join "," "x" }}"#, "x,1"),
    (r#"{{if eq .Task.Slot "1"}}one{{else}}many{{end}}"#, "one"),
    (
        r#"{{if eq .Task.Slot "2"}}two{{else if eq .Task.Slot "1"}}one{{else}}many{{end}}"#,
        "one",
    ),
    ("{{if .Service.Labels.empty}}yes{{else}}no{{end}}", "no"),
    (
        r#"{{if index .Service.Labels "none"}}yes{{else}}no{{end}}"#,
        "no",
    ),
    (
        "{{if .Service.Labels}}labels{{end}}{{if 0}}zero{{end}}{{if 1}}one{{end}}",
        "labelsone",
    ),
    (
        r#"{{if and true .Task.Slot}}both{{end}} {{and 1 0 2}} {{or 0 "" "x" "y"}} {{or 0 ""}}|{{and "" 1}}|"#,
        "both 0 x ||",
    ),
    (
        r#"{{not true}} {{not ""}} {{not 0 | not}}"#,
        "false true false",
    ),
    (
        r#"{{index .Service.Labels "a"}}|{{index .Service.Labels "b.c"}}|{{index .Service.Labels "none"}}|"#,
        "1|2||",
    ),
    (r#"{{ "a" | index .Service.Labels }}"#, "1"),
    (
        r#"{{len "abc"}} {{len .Service.Labels}} {{len "ä"}}"#,
        "3 3 2",
    ),
    (
        r#"{{eq 1 1}} {{eq 1 2 1}} {{ne "a" "b"}} {{lt 1 2}} {{le 2 2}} {{gt "b" "a"}} {{ge "a" "b"}} {{eq true true}}"#,
        "true true true true true true false true",
    ),
    (r#"{{ "b" | lt "a" }} {{ 3 | eq 3 }}"#, "true true"),
    (
        r#"{{print 1 2 "a" 3 4 "b" true false}}|{{print}}|{{print "a" "b"}}|{{print 1 true}}"#,
        "1 2a3 4btrue false||ab|1 true",
    ),
    (r#"{{println 1 "a"}}|{{println}}|"#, "1 a\n|\n|"),
    (
        r#"{{printf "%s-%d-%v-%v-%%" "a" 5 true .Service.Labels}}"#,
        "a-5-true-map[a:1 b.c:2 empty:]-%",
    ),
    (r#"{{printf "x"}}|{{ "z" | printf "%s%s" "y" }}"#, "x|yz"),
    (
        r#"{{html "<a href='x'>&\"</a>"}}|{{html "a" 1 2}}"#,
        "&lt;a href=&#39;x&#39;&gt;&amp;&#34;&lt;/a&gt;|a1 2",
    ),
    (
        r#"{{urlquery "a b&c=d/ä~-_.!*'()"}}|{{ urlquery 1 2 "x" }}"#,
        "a+b%26c%3Dd%2F%C3%A4~-_.%21%2A%27%28%29|1+2x",
    ),
    (r#"{{ print (print 1) (print "a" | html) }}"#, "1a"),
    (
        "{{if (eq 1 1)}}{{if(eq 1 1)}}nested{{end}}{{end}}",
        "nested",
    ),
    (
        r#"}} closing alone {{ "}}" }} {{`{{`}}"#,
        "}} closing alone }} {{",
    ),
    ("{{.Service.Labels.a}}{{/* a */}}{{- /* b */}} x", "1 x"),
    (r#"{ {a} {{"{"}}"#, "{ {a} {"),
    (r#"{{ 	"tab"	|	print	}}"#, "tab"),
    (
        r#"{{
"newline"
}}"#,
        "newline",
    ),
    ("{{ .Service.Name |html|urlquery }}", "web"),
    ("{{if .Node.Hostname}}has{{else}}none{{end}}", "none"),
    ("{{/*/ tricky */}}x", "x"),
    (r#"{{ printf "%v %v" "s" 3 }}"#, "s 3"),
    (r#"{{ eq "a" "b" "c" }}{{ eq 3 (len "abc") }}"#, "falsetrue"),
    (
        r#"{{if false}}{{secret "nosuch"}}{{.Service.Labels.none}}{{end}}ok"#,
        "ok",
    ),
    (
        r#"{{and false (secret "nosuch")}}{{or true (secret "nosuch")}}"#,
        "falsetrue",
    ),
];

#[test]
fn what_is_not_offered_is_refused_by_name() {
    for construct in [
        "range", "with", "define", "template", "block", "break", "continue", "call", "js", "slice",
        "nil",
    ] {
        let text = fault(&format!(
            "a\nb{{{{ {construct} .Service.Labels }}}}{{{{end}}}}"
        ));
        assert!(
            text.starts_with(&format!("line 2: `{construct}` is not offered")),
            "{text}"
        );
        let nested = fault(&format!("{{{{ print ({construct} 1) }}}}"));
        assert!(nested.contains(construct), "{nested}");
    }
    for (text, named) in [
        ("{{$x := 1}}", "variables"),
        ("{{$}}", "variables"),
        ("{{.}}", ". alone"),
        ("{{'a'}}", "character constants"),
        ("{{1.5}}", "decimal integers"),
        ("{{0x10}}", "decimal integers"),
        ("{{010}}", "decimal integers"),
        ("{{1e3}}", "decimal integers"),
        ("{{.5}}", "decimal integers"),
        ("{{99999999999999999999}}", "decimal integers"),
        ("{{(print 1).ID}}", "fields of an expression"),
        ("{{\"a\".ID}}", "fields of an expression"),
        ("{{printf \"%q\" 1}}", "verbs"),
        ("{{printf \"%5d\" 1}}", "verbs"),
        ("{{printf \"%\"}}", "verbs"),
        ("{{printf \"%s\"}}", "as many values"),
        ("{{printf \"\" 1}}", "as many values"),
        ("{{printf .Task.ID 1}}", "its format"),
        ("{{index .Task.ID 0}}", ".Service.Labels"),
        ("{{.Service}}", "no such field"),
        ("{{.Service.Foo}}", "no such field"),
        ("{{.Service.Labels.a.b}}", "no such field"),
        ("{{.Node.Labels}}", "no such field"),
        ("{{toUpper \"x\"}}", "no such function"),
    ] {
        let text = fault(text);
        assert!(text.contains(named), "{text}");
    }
}

#[test]
fn malformed_templates() {
    for text in [
        "{{",
        "{{}}",
        "{{-  -}}",
        "{{ .Task.ID",
        "{{ .Task.ID }",
        "{{/* a }}",
        "{{/* a */ .Task.ID}}",
        "{{ /* a */ }}",
        "{{\"a}}",
        "{{\"a\nb\"}}",
        "{{\"\\'\"}}",
        "{{\"\\q\"}}",
        "{{\"\\xg0\"}}",
        "{{\"\\400\"}}",
        "{{\"\\ud800\"}}",
        "{{\"\\",
        "{{`a}}",
        "{{(print 1}}",
        "{{print 1)}}",
        "{{print 1 |}}",
        "{{| print}}",
        "{{\"a\" | \"b\"}}",
        "{{\"a\" | .Task.ID}}",
        "{{\"a\" \"b\"}}",
        "{{print \"a\"\"b\"}}",
        "{{print(1)}}",
        "{{print if}}",
        "{{print 1, 2}}",
        "{{.Task.ID!}}",
        "{{ä}}",
        "{{if true}}",
        "{{if}}{{end}}",
        "{{if true}}{{else}}{{else}}{{end}}",
        "{{if true}}{{else if}}{{end}}",
        "{{else}}",
        "{{end}}",
        "{{if true}}{{end 1}}",
        "{{print env \"A\"}}",
    ] {
        let text = fault(text);
        assert!(text.contains("malformed template"), "{text}");
    }
    assert!(Template::parse(b"{{\"\xff\"}}", Place::Payload).is_err());
}

#[test]
fn arguments_that_do_not_fit() {
    for text in [
        "{{secret}}",
        "{{secret 1}}",
        "{{secret \"pw\" \"pw\"}}",
        "{{join}}",
        "{{join \",\" 1}}",
        "{{not}}",
        "{{not 1 2}}",
        "{{eq 1}}",
        "{{eq 1 \"1\"}}",
        "{{eq .Service.Labels .Service.Labels}}",
        "{{lt true false}}",
        "{{len 3}}",
        "{{index .Service.Labels 1}}",
        "{{printf \"%d\" \"1\"}}",
        "{{printf \"%s\" 1}}",
        "{{and}}",
        "{{1 | and | len}}",
    ] {
        let text = fault(text);
        assert!(text.starts_with("line 1: function `"), "{text}");
    }
}

#[test]
fn files_and_labels_that_are_not_there() {
    assert_eq!(
        fault("\n{{secret \"nosuch\"}}"),
        "line 2: secret target `nosuch` not found; name the file that the service gives it"
    );
    assert!(fault("{{config \"pw\"}}").contains("config target `pw` not found"));
    assert!(fault("{{.Service.Labels.none}}").contains("no label `none`"));
    // What is made of a secret is not shown, nor is the text beside it.
    let text = fault("hunter2{{/* hunter2 */}}{{secret (secret \"pw\")}}");
    assert!(text.contains("secret target not found"), "{text}");
    assert!(
        !text.contains("p@ss") && !text.contains("hunter2"),
        "{text}"
    );
    for text in ["{{hunter2}}", "{{print \"hunter2\" 1 2 | len | len}}"] {
        let text = fault(text);
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn fields_have_no_files() {
    for function in ["secret", "config", "env"] {
        let text = format!("{{{{ {function} \"pw\" }}}}");
        let refused = Template::parse(text.as_bytes(), Place::Field)
            .err()
            .unwrap();
        assert_eq!(refused.fault, TemplateFault::PayloadOnly { function });
    }
    assert!(Template::parse(b"{{.Task.Slot}}", Place::Field).is_ok());
}

#[test]
fn sizes_depth_and_work_are_bounded() {
    assert!(expand(b"{{\"abc\"}}d", 4).is_ok());
    let text = expand(b"\n{{\"abc\"}}d", 4).unwrap_err().to_string();
    assert!(text.contains("too many bytes after expansion"), "{text}");
    let nested = |depth: usize| {
        format!(
            "{{{{ {}1{} }}}}",
            "(print ".repeat(depth),
            ")".repeat(depth)
        )
    };
    assert!(expand(nested(MAX_TEMPLATE_DEPTH).as_bytes(), 10).is_ok());
    assert!(fault(&nested(MAX_TEMPLATE_DEPTH + 1)).contains("nested too deep"));
    assert!(fault(&nested(100_000)).contains("nested too deep"));
    let branches = |depth: usize| "{{if 1}}".repeat(depth) + &"{{end}}".repeat(depth);
    assert!(expand(branches(MAX_TEMPLATE_DEPTH).as_bytes(), 10).is_ok());
    assert!(fault(&branches(100_000)).contains("nested too deep"));
    // A chain is not nested.
    let chain = format!("{{{{if 0}}}}{}{{{{end}}}}", "{{else if 0}}".repeat(1_000));
    assert_eq!(expand(chain.as_bytes(), 10).unwrap(), b"");
    assert!(fault(&"{{1}}".repeat(MAX_TEMPLATE_ACTIONS + 1)).contains("too many actions"));
    // Each reads half a mebibyte, none writes any.
    let busy = "{{if eq (secret \"large\") \"\"}}{{end}}".repeat(100);
    assert!(
        fault(&busy).contains("read and written"),
        "{}",
        fault(&busy)
    );
    let wide = format!(
        "{{{{len (join \"\"{})}}}}",
        " (secret \"large\")".repeat(40)
    );
    assert!(fault(&wide).contains("read and written"));
}

#[test]
fn bytes_that_are_no_text_stay_as_they_are() {
    assert_eq!(
        expand(b"\xfe{{secret \"bytes\"}}\xfd", 100).unwrap(),
        b"\xfe\xff\x00{{\xfd"
    );
    assert!(has_actions(b"a{{") && !has_actions(b"{ {}}") && !has_actions(b""));
}

#[test]
fn the_same_bytes_as_the_engine() {
    for (text, bytes) in ENGINE {
        let expanded = expand(text.as_bytes(), 1000).map_err(|error| error.to_string());
        let expanded = expanded.map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(expanded, Ok(bytes.to_owned()), "{text}");
    }
}
