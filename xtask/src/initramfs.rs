//! Reads a list of what an initramfs holds, in the words of Linux' `gen_init_cpio`, and writes the archive.
//!
//! ```text
//!  dir NAME MODE UID GID | nod NAME MODE UID GID c MAJOR MINOR
//!  file NAME SOURCE MODE UID GID | slink NAME TARGET MODE UID GID
//! ```
//!
//! `$VARIABLE` in a source is a file of this build; a line with `$APPLET` stands for one for each applet.

use crate::cpio::{Archive, Owner};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// What the variables of a list stand for.
pub(crate) struct Variables {
    /// `$INIT`.
    pub(crate) init: PathBuf,
    /// `$BUSYBOX`.
    pub(crate) busybox: PathBuf,
    /// `$APPLET`, one after another.
    pub(crate) applets: Vec<String>,
}

/// The archive that `list` describes.
///
/// # Errors
/// A line that is not understood (with its number), or a file that is not there.
pub(crate) fn build(list: &str, variables: &Variables) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for (number, line) in list.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        if line.trim().is_empty() {
            continue;
        }
        let lines: Vec<String> = if line.contains("$APPLET") {
            variables.applets.iter().map(|applet| line.replace("$APPLET", applet)).collect()
        } else {
            vec![line.to_owned()]
        };
        for line in lines {
            add(&mut archive, &line, variables)
                .with_context(|| format!("initramfs list, line {}", number + 1))?;
        }
    }
    Ok(archive.finish())
}

fn add(archive: &mut Archive, line: &str, variables: &Variables) -> Result<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["dir", name, mode, uid, gid] => archive.directory(name, owner(mode, uid, gid)?),
        ["nod", name, mode, uid, gid, "c", major, minor] => {
            archive.device(name, owner(mode, uid, gid)?, (major.parse()?, minor.parse()?));
        }
        ["slink", name, target, mode, uid, gid] => archive.link(name, owner(mode, uid, gid)?, target),
        ["file", name, source, mode, uid, gid] => {
            let path = match source {
                "$INIT" => &variables.init,
                "$BUSYBOX" => &variables.busybox,
                other => Path::new(other),
            };
            let contents = std::fs::read(path).with_context(|| path.display().to_string())?;
            archive.file(name, owner(mode, uid, gid)?, &contents);
        }
        _ => bail!("not understood: {line}"),
    }
    Ok(())
}

fn owner(mode: &str, uid: &str, gid: &str) -> Result<Owner> {
    let mode = u32::from_str_radix(mode, 8).with_context(|| format!("mode {mode}"))?;
    Ok(Owner { mode, uid: uid.parse()?, gid: gid.parse()? })
}

#[cfg(test)]
mod tests {
    use super::{Variables, build};

    fn variables() -> Variables {
        Variables {
            init: "/nonexistent".into(),
            busybox: "/nonexistent".into(),
            applets: vec!["ls".into(), "cat".into()],
        }
    }

    #[test]
    fn a_line_with_applet_stands_for_many() {
        let archive = build("dir /bin 755 0 0\nslink /bin/$APPLET busybox 777 0 0\n", &variables());
        let text = String::from_utf8_lossy(&archive.expect("builds")).into_owned();
        assert!(text.contains("bin/ls\0") && text.contains("bin/cat\0"));
    }

    #[test]
    fn errors_name_the_line() {
        let error = build("# fine\nwhat is this\n", &variables()).expect_err("refused");
        assert_eq!(format!("{error:#}"), "initramfs list, line 2: not understood: what is this");
    }
}
