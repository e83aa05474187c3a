//! References of services to secrets and configs: `NAME`, or `source=NAME,target=…`.

use serde_json::{Value, json};

use crate::{
    client::{Client, filters},
    failure::Failure,
    info::Named,
    payload::Kind,
};

/// Mode of a file in a task unless told otherwise: everybody in the task reads it.
const DEFAULT_MODE: u32 = 0o444;

/// A reference as written on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) source: String,
    target: Option<String>,
    uid: String,
    gid: String,
    mode: u32,
}

impl Reference {
    pub(crate) fn parse(text: &str, kind: Kind) -> Result<Reference, Failure> {
        let flag = format!("--{} {text}", kind.noun);
        let mut reference = Reference {
            source: String::new(),
            target: None,
            uid: "0".to_owned(),
            gid: "0".to_owned(),
            mode: DEFAULT_MODE,
        };
        if !text.contains('=') {
            text.clone_into(&mut reference.source);
        } else {
            for field in text.split(',') {
                let (key, value) = field.split_once('=').unwrap_or((field, ""));
                match key {
                    "source" | "src" => value.clone_into(&mut reference.source),
                    "target" => reference.target = Some(value.to_owned()),
                    "uid" => value.clone_into(&mut reference.uid),
                    "gid" => value.clone_into(&mut reference.gid),
                    "mode" => {
                        reference.mode = u32::from_str_radix(value, 8).map_err(|_| {
                            Failure::usage(format!("{flag}: the mode {value} is not octal"))
                                .hint("write it as 0400")
                        })?;
                    }
                    _ => {
                        return Err(Failure::usage(format!("{flag}: there is no field {key}"))
                            .hint("the fields are source, target, uid, gid and mode"));
                    }
                }
            }
        }
        if reference.source.is_empty() {
            return Err(
                Failure::usage(format!("{flag}: the {} is not named", kind.noun)).hint(format!(
                    "write --{} NAME or source=NAME,target=FILE",
                    kind.noun
                )),
            );
        }
        Ok(reference)
    }

    /// As an object of the specification, once the id is known.
    pub(crate) fn object(&self, kind: Kind, id: &str) -> Value {
        let file = json!({
            "Name": self.target.as_ref().unwrap_or(&self.source),
            "UID": self.uid,
            "GID": self.gid,
            "Mode": self.mode,
        });
        match kind.noun {
            "secret" => json!({ "File": file, "SecretID": id, "SecretName": self.source }),
            _ => json!({ "File": file, "ConfigID": id, "ConfigName": self.source }),
        }
    }
}

/// The key of a reference's name in a specification.
pub(super) fn name_key(kind: Kind) -> &'static str {
    if kind.noun == "secret" {
        "SecretName"
    } else {
        "ConfigName"
    }
}

/// Looks up what is referred to, all in one call.
pub(super) async fn resolve(
    client: &Client,
    kind: Kind,
    texts: &[String],
) -> Result<Vec<Value>, Failure> {
    if texts.is_empty() {
        return Ok(Vec::new());
    }
    let references: Vec<Reference> = texts
        .iter()
        .map(|text| Reference::parse(text, kind))
        .collect::<Result<_, _>>()?;
    let names: Vec<&str> = references
        .iter()
        .map(|reference| reference.source.as_str())
        .collect();
    let path = format!("{}?{}", kind.route, filters(&[("name", &names)]));
    // The filter matches starts of names; the name itself counts.
    let found: Vec<Named> = client.get(&path).await?;
    references
        .iter()
        .map(|reference| {
            let object = found.iter().find(|object| object.spec.name == reference.source);
            object.map(|object| reference.object(kind, &object.id)).ok_or_else(|| {
                Failure::refused(format!("there is no {} {}", kind.noun, reference.source)).hint(
                    format!("create it with `waxseal {0} create {1} -`; `waxseal {0} ls` lists those there are", kind.noun, reference.source),
                )
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SECRET;

    #[test]
    fn refuses_what_names_nothing_or_is_misspelt() {
        for text in [
            "",
            "target=/x",
            "source=,target=x",
            "source=a,mod=0400",
            "source=a,mode=9",
        ] {
            assert!(Reference::parse(text, SECRET).is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_alone_is_its_own_target() {
        let object = Reference::parse("db", SECRET)
            .unwrap()
            .object(SECRET, "id1");
        let file = json!({"Name": "db", "UID": "0", "GID": "0", "Mode": 292});
        assert_eq!(
            object,
            json!({"File": file, "SecretID": "id1", "SecretName": "db"})
        );
    }

    #[test]
    fn all_fields_are_taken() {
        let text = "source=db,target=/etc/pw,uid=1,gid=2,mode=0400";
        let object = Reference::parse(text, SECRET).unwrap().object(SECRET, "i");
        assert_eq!(
            object["File"],
            json!({"Name": "/etc/pw", "UID": "1", "GID": "2", "Mode": 256})
        );
    }
}
