//! The guests of a run: copies of one, from the command line; or those of a file, in the format that Herald's own
//! configuration has on an image (`startup::config`).

use crate::cli::{Backing, RunArgs};
use crate::error::usage;
use crate::metal::Binaries;
use crate::plan::GuestImages;
use crate::snapshots::{self, Restored};
use crate::{plan, run};
use abi::config::{BootConfig, Paging};
use anyhow::Result;
use startup::config::{ConfigFile, Vm};
use std::path::{Path, PathBuf};

/// One guest.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    pub(crate) images: GuestImages,
    /// RAM in bytes.
    pub(crate) memory: u64,
    pub(crate) vcpus: u32,
    /// Share of the processors.
    pub(crate) weight: u32,
    /// RAM in bytes that it is to make do with.
    pub(crate) balloon: Option<u64>,
    /// Most memory of the machine, in bytes.
    pub(crate) memory_max: Option<u64>,
    /// Share of the machine's memory.
    pub(crate) memory_weight: u32,
    /// Whether equal pages of it are merged.
    pub(crate) merge: bool,
}

/// All of them.
pub(crate) struct Guests {
    pub(crate) all: Vec<Guest>,
    /// What the file says beside them, and whether the command line says what backs memory, and how fast it is merged.
    settings: Option<ConfigFile>,
    backing_given: bool,
    merge_share_given: bool,
}

/// The guests that the arguments ask for; their images are made if they must be.
///
/// # Errors
/// One sentence that names the option or the file and its line, status 2; or images cannot be made.
pub(crate) fn of(args: &RunArgs, binaries: &Binaries) -> Result<Guests> {
    let backing_given = args.backing != Backing::Anonymous;
    let merge_share_given = args.merge_share.is_some();
    if let Some(path) = &args.config {
        let file = read_file(path)?;
        let dir = path.parent().unwrap_or(Path::new(""));
        let all: Vec<_> =
            file.vms.iter().map(|vm| from_file(vm, path, dir, args.host_memory)).collect::<Result<_>>()?;
        return Ok(Guests { all, settings: Some(file), backing_given, merge_share_given });
    }
    if let Some(path) = &args.restore {
        let Restored { name, memory, vcpus, .. } = snapshots::restored(path)?;
        let images = GuestImages { name, kernel: PathBuf::new(), initrd: None, append: String::new() };
        let guest = of_command_line(args, images);
        return Ok(Guests {
            all: vec![Guest { memory, vcpus, ..guest }],
            settings: None,
            backing_given,
            merge_share_given,
        });
    }
    let images = run::guest_of(&args.guest, binaries)?;
    let copy = |number: u32| {
        let name = if args.vms == 1 { images.name.clone() } else { format!("{}-{number}", images.name) };
        of_command_line(args, GuestImages { name, ..images.clone() })
    };
    let all = (1..=args.vms).map(copy).collect();
    Ok(Guests { all, settings: None, backing_given, merge_share_given })
}

fn of_command_line(args: &RunArgs, images: GuestImages) -> Guest {
    Guest {
        images,
        memory: args.guest.memory,
        vcpus: args.vcpus,
        weight: 100,
        balloon: args.balloon,
        memory_max: args.memory_max,
        memory_weight: 100,
        merge: args.merge,
    }
}

impl Guests {
    /// What a file says for the whole machine. Its log level is an image's: here `--log` decides.
    pub(crate) fn apply_settings(&self, config: &mut BootConfig<'_>) {
        let Some(file) = &self.settings else { return };
        if file.paging != Paging::Auto {
            config.paging = file.paging;
        }
        config.ept_ad &= file.ept_ad;
        config.apic_virtualisation |= file.apic_virtualisation;
        config.zero_ahead &= file.zero_ahead;
        if !self.backing_given {
            config.backing = file.backing;
        }
        if !self.merge_share_given {
            config.merge_share = file.merge_share;
        }
    }
}

fn read_file(path: &Path) -> Result<ConfigFile> {
    let wrong = |why: String| usage(format!("--config {}: {why}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    ConfigFile::parse(&bytes).map_err(|error| wrong(error.to_string()))
}

fn from_file(vm: &Vm, file: &Path, dir: &Path, host_memory: u64) -> Result<Guest> {
    let option = format!("--config {}: {}:", file.display(), vm.name.as_str());
    let image = |name: &str| {
        let path = dir.join(name);
        plan::check_file(&option, &path, host_memory).map(|()| path)
    };
    let initrd = vm.initrd.as_ref().map(|initrd| image(initrd.as_str())).transpose()?;
    let images = GuestImages {
        name: vm.name.as_str().to_owned(),
        kernel: image(vm.kernel.as_str())?,
        initrd,
        append: vm.append.clone(),
    };
    Ok(Guest {
        images,
        memory: vm.memory.0,
        vcpus: vm.vcpus,
        weight: vm.weight,
        balloon: vm.balloon.map(|size| size.0),
        memory_max: vm.memory_max.map(|size| size.0),
        memory_weight: vm.memory_weight,
        merge: vm.merge,
    })
}

#[cfg(test)]
mod tests {
    use super::{from_file, read_file};
    use crate::error::{USAGE, status_of};
    use crate::run::RunDir;
    use std::path::Path;

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        let missing = read_file(Path::new("/nonexistent.toml")).expect_err("refused");
        assert!(missing.to_string().starts_with("--config /nonexistent.toml: No such file"), "{missing}");
        let dir = RunDir::create().expect("a temporary directory");
        let path = dir.path().join("guests.toml");
        std::fs::write(&path, "[[vm]]\nkernel = \"k\"\nweight = 0\n").expect("written");
        let wrong = read_file(&path).expect_err("refused");
        assert_eq!(status_of(&wrong), USAGE);
        assert!(wrong.to_string().contains("weight 0: 1 to 10000"), "{wrong}");
    }

    #[test]
    fn images_lie_beside_the_file() {
        let dir = RunDir::create().expect("a temporary directory");
        std::fs::write(dir.path().join("kernel"), "k").expect("written");
        let text = "[[vm]]\nname = \"a\"\nkernel = \"kernel\"\nmemory = \"64M\"\nvcpus = 2\nweight = 300\nmemory_max = \"32M\"\nmerge = true\n";
        let path = dir.path().join("guests.toml");
        std::fs::write(&path, text).expect("written");
        let parsed = read_file(&path).expect("accepted");
        let guest = from_file(&parsed.vms[0], &path, dir.path(), 1 << 30).expect("its kernel is there");
        assert_eq!((guest.memory, guest.vcpus, guest.weight), (64 << 20, 2, 300));
        assert_eq!((guest.memory_max, guest.memory_weight, guest.merge), (Some(32 << 20), 100, true));
        assert_eq!(guest.images.kernel, dir.path().join("kernel"));
        std::fs::remove_file(dir.path().join("kernel")).expect("removed");
        let gone = from_file(&parsed.vms[0], &path, dir.path(), 1 << 30).expect_err("refused");
        assert!(gone.to_string().contains("a: ") && gone.to_string().contains("kernel"), "{gone}");
    }
}
