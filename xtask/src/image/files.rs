//! What every image holds: the files of /herald, from which a loader puts the boot package together.

use crate::error::usage;
use crate::metal::Binaries;
use crate::package::strip;
use crate::plan::GuestImages;
use crate::run::{file_name, read, read_image};
use crate::symbols;
use abi::config::LogLevel;
use abi::package::file_name::{HERALD, SETTINGS, SYMBOLS};
use anyhow::Result;
use startup::config::{ConfigFile, Vm};
use startup::size::Size;

/// The loader's name beside them.
const LOADER: &str = "loader";
/// Their directory.
const DIRECTORY: &str = "herald";

/// A boot package cuts longer names.
const LONGEST_NAME: usize = 40;

/// Refuses what GRUB, FAT or a boot package would take for another name.
fn check_name(name: &str) -> Result<()> {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte));
    if is_plain && (1..=LONGEST_NAME).contains(&name.len()) {
        return Ok(());
    }
    Err(usage(format!(
        "`{name}`: files in an image have names of 1 to {LONGEST_NAME} letters, digits and `._-+`: rename it"
    )))
}

/// Names and contents, in the order in which they are loaded.
pub(super) struct Files(Vec<(String, Vec<u8>)>);

impl Files {
    /// Herald, its symbols, the configuration file, and the guest's images.
    ///
    /// # Errors
    /// A file that cannot be read, or has a name that cannot be or is another one's.
    pub(super) fn gather(
        binaries: &Binaries,
        guest: &GuestImages,
        memory: u64,
        log: LogLevel,
    ) -> Result<Self> {
        let herald = read(&binaries.herald)?;
        let kernel = file_name(&guest.kernel);
        let mut vm = Vm::new(&kernel);
        vm.name = guest.name.as_str().into();
        vm.append = guest.append.clone();
        vm.memory = Size(memory);
        let mut images = vec![(kernel, read_image("--kernel", &guest.kernel)?)];
        if let Some(initrd) = &guest.initrd {
            let name = file_name(initrd);
            vm.initrd = Some(name.as_str().into());
            images.push((name, read_image("--initrd", initrd)?));
        }
        let settings = ConfigFile { log, vms: vec![vm], ..ConfigFile::default() };
        let mut files = Self(vec![
            (HERALD.into(), strip(&herald)?),
            (SYMBOLS.into(), symbols::payload(&herald)?),
            (SETTINGS.into(), toml::to_string(&settings)?.into_bytes()),
        ]);
        for (name, bytes) in images {
            check_name(&name)?;
            if name == LOADER || files.0.iter().any(|(other, _)| *other == name) {
                return Err(usage(format!("an image holds a file `{name}` already: rename the guest's")));
            }
            files.0.push((name, bytes));
        }
        Ok(files)
    }

    /// GRUB's configuration: the loader, and each file as a module of its name.
    pub(super) fn grub_config(&self) -> String {
        let modules = self.0.iter().map(|(name, _)| format!("module2 /{DIRECTORY}/{name} {name}\n"));
        let modules: String = modules.collect();
        // The loader would like a framebuffer. Under a BIOS, GRUB 2.06 without a video driver jumps to address 0 then, and with
        // one that was there when the modules were loaded it crashes in Bochs: the driver comes last.
        format!(
            "multiboot2 /{DIRECTORY}/{LOADER}\n\
             {modules}\
             if [ \"$grub_platform\" = pc ]; then\n\
             insmod vbe\n\
             set gfxpayload=text\n\
             else\n\
             insmod all_video\n\
             fi\n\
             boot\n"
        )
    }

    /// All files with their paths.
    pub(super) fn with_paths(self) -> Vec<(String, Vec<u8>)> {
        self.0.into_iter().map(|(name, bytes)| (format!("{DIRECTORY}/{name}"), bytes)).collect()
    }

    /// The same with the loader that GRUB starts.
    ///
    /// # Errors
    /// The loader cannot be read.
    pub(super) fn with_loader(mut self, binaries: &Binaries) -> Result<Vec<(String, Vec<u8>)>> {
        let loader = strip(&read(&binaries.loader)?)?;
        self.0.insert(0, (LOADER.to_owned(), loader));
        Ok(self.with_paths())
    }
}

#[cfg(test)]
mod tests {
    use super::check_name;

    #[test]
    fn names_that_others_would_take_for_another_are_refused() {
        check_name("vmlinuz-6.1.0-56-cloud-amd64").expect("plain");
        for name in ["", "two words", "a'b", "$x", "\u{e4}", &"x".repeat(41)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
