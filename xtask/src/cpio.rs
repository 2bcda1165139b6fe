//! Writes a cpio archive in the "newc" format, which Linux unpacks as its initial file system
//! (Linux: Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Each member is a header of 13 fields of eight hexadecimal digits behind the magic, its name with a zero
//! byte, and its bytes; name and bytes are padded to four. The archive ends with the name `TRAILER!!!`.

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";

const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;
const SYMBOLIC_LINK: u32 = 0o120_000;

/// Whose a member is, and who may do what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Owner {
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// An archive being written. Times are zero, so that equal contents give equal archives.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    members: u32,
}

impl Archive {
    /// Adds a directory.
    pub(crate) fn directory(&mut self, name: &str, owner: Owner) {
        self.member(name, DIRECTORY, owner, (0, 0), &[]);
    }

    /// Adds a regular file.
    pub(crate) fn file(&mut self, name: &str, owner: Owner, contents: &[u8]) {
        self.member(name, REGULAR, owner, (0, 0), contents);
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, name: &str, owner: Owner, target: &str) {
        self.member(name, SYMBOLIC_LINK, owner, (0, 0), target.as_bytes());
    }

    /// Adds a character device, by its major and minor number.
    pub(crate) fn device(&mut self, name: &str, owner: Owner, number: (u32, u32)) {
        self.member(name, CHARACTER_DEVICE, owner, number, &[]);
    }

    /// The archive, ended.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.member(TRAILER, 0, Owner { mode: 0, uid: 0, gid: 0 }, (0, 0), &[]);
        self.bytes
    }

    fn member(&mut self, name: &str, kind: u32, owner: Owner, device: (u32, u32), contents: &[u8]) {
        self.members += 1;
        let name = name.trim_start_matches('/');
        let links = if kind == DIRECTORY { 2 } else { 1 };
        let (size, name_size) = (contents.len() as u32, name.len() as u32 + 1);
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [
            self.members,
            kind | owner.mode,
            owner.uid,
            owner.gid,
            links,
            0,
            size,
            0,
            0,
            device.0,
            device.1,
            name_size,
            0,
        ];
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::{Archive, Owner};

    #[test]
    fn members_are_aligned_and_the_archive_ends() {
        let owner = Owner { mode: 0o755, uid: 0, gid: 0 };
        let mut archive = Archive::default();
        archive.directory("/dev", owner);
        archive.file("/init", owner, b"#!/bin/sh\n");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        // The directory: 110 bytes of header and "dev\0", padded to 116.
        assert_eq!(&bytes[..14], b"07070100000001");
        assert_eq!(&bytes[14..22], b"000041ed");
        assert_eq!(&bytes[110..114], b"dev\0");
        assert_eq!(&bytes[116..122], b"070701");
        assert!(bytes.windows(10).any(|window| window == b"TRAILER!!!"));
    }
}
