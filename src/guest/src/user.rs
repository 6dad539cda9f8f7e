//! Who a program runs as: `uid:gid`, `uid`, `name` or `name:group`, looked up in the guest's
//! own `/etc/passwd` and `/etc/group`.

use std::fs;

use mvm_guest_proto::message::{ErrorKind, Failure};

/// A user a program can run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
    pub(crate) shell: String,
}

/// The user `who` names; root when `None`.
///
/// # Errors
/// `NotFound` when the name does not exist.
pub(crate) fn find(who: Option<&str>) -> Result<User, Failure> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let group = fs::read_to_string("/etc/group").unwrap_or_default();
    find_in(who.unwrap_or("0"), &passwd, &group)
}

fn find_in(who: &str, passwd: &str, group: &str) -> Result<User, Failure> {
    let missing = |what: &str, name: &str| {
        let name: String = name.chars().take(64).collect();
        Failure::new(ErrorKind::NotFound, format!("there is no {what} {name:?}"))
    };
    let (name, of_group) = match who.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (who, None),
    };
    let by_name = passwd.lines().filter_map(passwd_line).find(|user| user.name == name);
    let number = name.parse::<u32>().ok();
    let by_number = || passwd.lines().filter_map(passwd_line).find(|user| Some(user.uid) == number);
    let mut user = match by_name.or_else(by_number) {
        Some(user) => user,
        None => nameless(number.ok_or_else(|| missing("user", name))?),
    };
    if let Some(of_group) = of_group {
        let gid = group_id(of_group, group).ok_or_else(|| missing("group", of_group))?;
        user.gid = gid;
    }
    user.groups = groups_of(&user, group);
    Ok(user)
}

/// A uid without an entry: its own group, `/` as home.
fn nameless(uid: u32) -> User {
    User {
        name: uid.to_string(),
        uid,
        gid: uid,
        groups: Vec::new(),
        home: "/".into(),
        shell: "/bin/sh".into(),
    }
}

fn passwd_line(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1).filter(|home| !home.is_empty()).unwrap_or("/").to_owned();
    let shell = fields.next().filter(|shell| !shell.is_empty()).unwrap_or("/bin/sh").to_owned();
    Some(User { name, uid, gid, groups: Vec::new(), home, shell })
}

fn group_id(name: &str, group: &str) -> Option<u32> {
    let by_name = group.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    });
    by_name.or_else(|| name.parse().ok())
}

fn groups_of(user: &User, group: &str) -> Vec<u32> {
    let member = |line: &str| {
        let mut fields = line.split(':').skip(2);
        let gid = fields.next()?.parse().ok()?;
        fields.next()?.split(',').any(|name| name == user.name).then_some(gid)
    };
    group.lines().filter_map(member).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:\nmedia:x:44:root,app\n";

    #[test]
    fn names_and_numbers_find_the_same_user() {
        let app = find_in("app", PASSWD, GROUP).unwrap();
        assert_eq!((app.uid, app.gid, app.home.as_str()), (1000, 1001, "/home/app"));
        assert_eq!(app.groups, [44]);
        assert_eq!(find_in("1000", PASSWD, GROUP).unwrap(), app);
    }

    #[test]
    fn a_group_can_be_named_or_numbered() {
        assert_eq!(find_in("app:media", PASSWD, GROUP).unwrap().gid, 44);
        assert_eq!(find_in("5:7", PASSWD, GROUP).unwrap().gid, 7);
        assert_eq!(find_in("5:7", PASSWD, GROUP).unwrap().uid, 5);
    }

    #[test]
    fn who_does_not_exist_is_not_root() {
        for who in ["nobody-here", "app:nothing", "", "-1", ":", "4294967296"] {
            assert!(find_in(who, PASSWD, GROUP).is_err(), "{who:?} was found");
        }
    }
}
