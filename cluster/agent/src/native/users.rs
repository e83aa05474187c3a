//! As whom a task runs: the user and groups of its specification, looked up in the host's files.

use std::fs::File;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};

/// The most that is read of `/etc/passwd` and `/etc/group`: larger sites use numbers.
const MAX_DATABASE_BYTES: u64 = 16 << 20;

/// A user with its groups, by number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Supplementary groups.
    pub(super) groups: Vec<u32>,
    /// Its home directory; `/` if it is not listed.
    pub(super) home: String,
}

/// The host's lists of users and groups.
#[derive(Debug, Default)]
pub(super) struct Database {
    pub(super) passwd: String,
    pub(super) group: String,
}

impl Database {
    /// Reads `/etc/passwd` and `/etc/group`; a missing one is empty.
    pub(super) fn read() -> Self {
        let read = |path| read_bounded(path).unwrap_or_default();
        Self {
            passwd: read("/etc/passwd"),
            group: read("/etc/group"),
        }
    }

    /// The identity for `user` (empty, `uid`, `name`, `user:group`) and further `groups`.
    ///
    /// As the engine does: empty is root; the groups that list the user's name are added unless a
    /// group is given. Unlike there, a number that is not listed is its own gid and not 0, which
    /// here is the group of the host's root.
    ///
    /// # Errors
    /// The name that is not listed.
    pub(super) fn identity(&self, user: &str, groups: &[String]) -> Result<Identity, String> {
        let (user, group) = match user.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (user, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        let listed = self.user(user);
        let (uid, own_gid, home, name) = match (listed, user.parse::<u32>()) {
            (Some(found), _) => found,
            (None, Ok(uid)) => (uid, uid, "/".to_owned(), None),
            (None, Err(_)) => return Err(format!("user `{user}`")),
        };
        let gid = group.map_or(Ok(own_gid), |group| self.gid(group))?;
        let mut all = match (group, name) {
            (None, Some(name)) => self.groups_of(&name),
            _ => Vec::new(),
        };
        for group in groups {
            all.push(self.gid(group)?);
        }
        all.sort_unstable();
        all.dedup();
        Ok(Identity {
            uid,
            gid,
            groups: all,
            home,
        })
    }

    /// Whether the group that `user` has follows from what it says or from what is listed.
    pub(super) fn has_known_group(&self, user: &str) -> bool {
        match user.split_once(':') {
            Some((_, group)) if !group.is_empty() => true,
            Some((user, _)) => self.user(user).is_some(),
            None => user.is_empty() || self.user(user).is_some(),
        }
    }

    fn user(&self, wanted: &str) -> Option<(u32, u32, String, Option<String>)> {
        let number = wanted.parse::<u32>().ok();
        self.passwd.lines().find_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let [name, _, uid, gid, _, home, ..] = fields[..] else {
                return None;
            };
            let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
            let home = if home.is_empty() { "/" } else { home };
            (name == wanted || number == Some(uid))
                .then(|| (uid, gid, home.to_owned(), Some(name.to_owned())))
        })
    }

    fn gid(&self, wanted: &str) -> Result<u32, String> {
        let listed = self.group_lines().find(|(name, _, _)| *name == wanted);
        match (listed, wanted.parse()) {
            (Some((_, gid, _)), _) | (None, Ok(gid)) => Ok(gid),
            (None, Err(_)) => Err(format!("group `{wanted}`")),
        }
    }

    fn groups_of(&self, name: &str) -> Vec<u32> {
        let lists = |members: &str| members.split(',').any(|member| member == name);
        self.group_lines()
            .filter(|(_, _, members)| lists(members))
            .map(|(_, gid, _)| gid)
            .collect()
    }

    fn group_lines(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _) = (fields.next()?, fields.next()?);
            Some((
                name,
                fields.next()?.parse().ok()?,
                fields.next().unwrap_or_default(),
            ))
        })
    }
}

fn read_bounded(path: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_DATABASE_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Database {
        Database {
            passwd: "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:1001:1002::/srv/web:/bin/false\n"
                .into(),
            group: "root:x:0:\nweb:x:1002:\nlog:x:1003:web,other\nssl:x:1004:root\n".into(),
        }
    }

    #[test]
    fn names_that_are_not_listed_are_refused() {
        let refused = |user: &str, groups: &[&str]| {
            let groups: Vec<_> = groups.iter().map(|group| (*group).to_owned()).collect();
            database().identity(user, &groups).unwrap_err()
        };
        assert_eq!(refused("nobody", &[]), "user `nobody`");
        assert_eq!(refused("web:wheel", &[]), "group `wheel`");
        assert_eq!(refused("web", &["wheel"]), "group `wheel`");
        assert_eq!(refused("-1", &[]), "user `-1`");
        assert_eq!(refused("4294967296", &[]), "user `4294967296`");
    }

    #[test]
    fn groups_are_known_or_guessed() {
        for user in ["777", "777:"] {
            assert!(!database().has_known_group(user), "{user}");
        }
        for user in ["", "0", "1001", "web", "web:", "777:888", "777:log"] {
            assert!(database().has_known_group(user), "{user}");
        }
    }

    #[test]
    fn users_are_found_as_the_engine_finds_them() {
        let found = |user: &str| database().identity(user, &[]).unwrap();
        let identity = |uid, gid, groups: &[u32], home: &str| Identity {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.into(),
        };
        assert_eq!(found(""), identity(0, 0, &[1004], "/root"));
        assert_eq!(found("web"), identity(1001, 1002, &[1003], "/srv/web"));
        assert_eq!(found("1001"), found("web"));
        assert_eq!(found("web:log"), identity(1001, 1003, &[], "/srv/web"));
        assert_eq!(found("web:"), found("web"));
        assert_eq!(found("777"), identity(777, 777, &[], "/"));
        assert_eq!(found("777:888"), identity(777, 888, &[], "/"));
        let more = database()
            .identity("777", &["log".into(), "5".into()])
            .unwrap();
        assert_eq!(more.groups, [5, 1003]);
    }
}
