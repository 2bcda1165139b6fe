//! The configuration file that people edit, on an ISO image or an EFI partition: TOML 1.0.
//!
//! ```toml
//! log = "info"            # error, warn, info, debug, trace
//! paging = "auto"         # ept, shadow
//! backing = "anonymous"   # huge-pages, gigantic-pages, shared
//! ept-ad = true
//! apic-virtualisation = false
//! zero-ahead = true
//! merge-share = 10        # most of one processor's time that merging takes, in percent
//!
//! [[vm]]                  # one for each guest
//! name = "first"
//! kernel = "bzImage"      # the only key that must be there
//! initrd = "initramfs.cpio"
//! append = "console=ttyS0"
//! memory = "256M"
//! vcpus = 1
//! weight = 100            # its share of the processors, beside other guests
//! memory_max = "64M"      # of the machine's memory it has no more; else: as much as its RAM
//! memory_weight = 100     # its share of the machine's memory, beside other guests, when that is short
//! merge = true            # equal pages of it, and of other guests with this line, are merged; else: not
//! balloon = "64M"         # RAM that it is to make do with, if it has a driver for its balloon; else: all
//! ```
//!
//! Kernels and RAM disks are named as the boot loader names them; [`ConfigFile::boot_config`] finds them among what
//! was loaded. An error tells the line and what stands there. The same type writes such a file.

mod error;
#[cfg(test)]
mod tests;
mod text;

use crate::size::{Size, parse_size};
use abi::config::{
    Backing, BootConfig, Inject, LogLevel, MAX_VCPUS, MAX_VMS, MERGE_SHARE, Paging, Snapshot, Swap, VmConfig,
};
use addr::PAGE_SIZE;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use error::ConfigError;
pub use text::Text;

/// Longest file that is looked at, in bytes: parsing takes some ten times its size of the heap.
pub const MAX_FILE_BYTES: usize = 64 << 10;
/// Longest name of a guest, in bytes.
pub const MAX_NAME_BYTES: usize = 40;
/// Least RAM of a guest: a kernel at 1 MiB, and its tables.
pub const LEAST_MEMORY: u64 = 4 << 20;

/// The file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ConfigFile {
    /// Threshold of Herald's log.
    pub log: LogLevel,
    /// Which tables translate guest memory.
    pub paging: Paging,
    /// What backs guest memory.
    pub backing: Backing,
    /// Use EPT A/D bits where the processor has them.
    pub ept_ad: bool,
    /// Let the processor deliver guests' interrupts, where it can.
    pub apic_virtualisation: bool,
    /// Processors that have nothing to do zero free memory ahead.
    pub zero_ahead: bool,
    /// Most of one processor's time that merging takes, in percent.
    #[serde(deserialize_with = "merge_share")]
    pub merge_share: u32,
    /// The guests, started in order.
    #[serde(rename = "vm")]
    pub vms: Vec<Vm>,
}

impl Default for ConfigFile {
    fn default() -> Self {
        Self {
            log: LogLevel::Info,
            paging: Paging::Auto,
            backing: Backing::Anonymous,
            ept_ad: true,
            apic_virtualisation: false,
            zero_ahead: true,
            merge_share: MERGE_SHARE,
            vms: Vec::new(),
        }
    }
}

/// A guest, as the file has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vm {
    /// Name for messages; empty: `vm` and its number.
    #[serde(default, skip_serializing_if = "Text::is_empty")]
    pub name: Text,
    /// The kernel's file.
    pub kernel: Text,
    /// The initial RAM disk's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<Text>,
    /// Kernel command line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub append: String,
    /// RAM.
    #[serde(default = "default_memory", deserialize_with = "guest_memory", serialize_with = "write_size")]
    pub memory: Size,
    /// Virtual processors.
    #[serde(default = "default_vcpus", deserialize_with = "vcpus")]
    pub vcpus: u32,
    /// Share of the processors relative to other guests.
    #[serde(
        default = "default_weight",
        deserialize_with = "weight",
        skip_serializing_if = "is_default_weight"
    )]
    pub weight: u32,
    /// RAM that it is to make do with.
    #[serde(
        default,
        deserialize_with = "squeezed_to",
        serialize_with = "write_optional_size",
        skip_serializing_if = "Option::is_none"
    )]
    pub balloon: Option<Size>,
    /// Most memory of the machine that its RAM may take.
    #[serde(
        default,
        deserialize_with = "squeezed_to",
        serialize_with = "write_optional_size",
        skip_serializing_if = "Option::is_none"
    )]
    pub memory_max: Option<Size>,
    /// Share of the machine's memory relative to other guests.
    #[serde(
        default = "default_weight",
        deserialize_with = "weight",
        skip_serializing_if = "is_default_weight"
    )]
    pub memory_weight: u32,
    /// Whether equal pages of it are merged.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub merge: bool,
}

/// A file that the boot loader has brought: what it is called, and where it is in the boot package.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Module<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its index among the package's entries.
    pub entry: u32,
}

impl Vm {
    /// A guest with this kernel, and nothing else said.
    #[must_use]
    pub fn new(kernel: &str) -> Self {
        Self {
            name: Text::default(),
            kernel: kernel.into(),
            initrd: None,
            append: String::new(),
            memory: default_memory(),
            vcpus: default_vcpus(),
            weight: default_weight(),
            balloon: None,
            memory_max: None,
            memory_weight: default_weight(),
            merge: false,
        }
    }
}

impl ConfigFile {
    /// Reads a file. Guests without a name get one.
    ///
    /// # Errors
    /// Anything that [`ConfigError`] names, but for files that are not there.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(ConfigError::TooLong { bytes: bytes.len() });
        }
        let source = core::str::from_utf8(bytes)
            .map_err(|error| ConfigError::NotText { line: text::line_of(bytes, error.valid_up_to()) })?;
        let mut file: Self = toml::from_str(source).map_err(|error| ConfigError::syntax(source, &error))?;
        for (index, vm) in file.vms.iter_mut().enumerate() {
            for text in [&mut vm.name, &mut vm.kernel].into_iter().chain(&mut vm.initrd) {
                text.locate(bytes);
            }
            if vm.name.is_empty() {
                vm.name = Text::from(format!("vm{}", index + 1));
            }
        }
        file.check()?;
        Ok(file)
    }

    /// What the whole file must keep, beyond what each line must.
    fn check(&self) -> Result<(), ConfigError> {
        match self.vms.len() {
            0 => return Err(ConfigError::NoVm),
            1..=MAX_VMS => {}
            count => return Err(ConfigError::TooManyVms { count }),
        }
        for (index, vm) in self.vms.iter().enumerate() {
            let name = vm.name.as_str();
            if name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
                return Err(ConfigError::Name { name: vm.name.clone() });
            }
            if vm.balloon.is_some_and(|size| size > vm.memory) {
                return Err(ConfigError::Balloon { name: vm.name.clone() });
            }
            if let Some(first) = self.vms[..index].iter().find(|other| other.name == vm.name) {
                return Err(ConfigError::SameName { first: first.name.clone(), second: vm.name.clone() });
            }
        }
        Ok(())
    }

    /// Herald's configuration: names become indices.
    ///
    /// # Errors
    /// [`ConfigError::NoModule`]; for a file that was not parsed, also what [`Self::parse`] refuses.
    pub fn boot_config(&self, modules: &[Module<'_>]) -> Result<BootConfig<'_>, ConfigError> {
        self.check()?;
        let mut vms = heapless::Vec::new();
        for vm in &self.vms {
            let initrd = vm.initrd.as_ref().map(|initrd| find(modules, "initrd", initrd)).transpose()?;
            let config = VmConfig {
                name: vm.name.as_str(),
                kernel: find(modules, "kernel", &vm.kernel)?,
                initrd,
                append: &vm.append,
                memory: vm.memory.0,
                vcpus: vm.vcpus,
                weight: vm.weight,
                balloon: vm.balloon.map(|size| size.0),
                memory_max: vm.memory_max.map(|size| size.0),
                memory_weight: vm.memory_weight,
                merge: vm.merge,
            };
            vms.push(config).map_err(|_| ConfigError::TooManyVms { count: self.vms.len() })?;
        }
        Ok(BootConfig {
            vms,
            paging: self.paging,
            backing: self.backing,
            ept_ad: self.ept_ad,
            apic_virtualisation: self.apic_virtualisation,
            zero_ahead: self.zero_ahead,
            swap: Swap::default(),
            proactive: 0,
            merge_share: self.merge_share,
            snapshot: Snapshot::None,
            log: self.log,
            oracle: false,
            telemetry_rate: 0,
            inject: Inject::default(),
            tsc_hz: 0,
        })
    }
}

fn find(modules: &[Module<'_>], key: &'static str, file: &Text) -> Result<u32, ConfigError> {
    let found = modules.iter().find(|module| module.name == file.as_str());
    found.map(|module| module.entry).ok_or_else(|| ConfigError::NoModule {
        key,
        file: file.clone(),
        modules: modules.iter().map(|module| module.name).collect::<Vec<_>>().join(", "),
    })
}

fn default_memory() -> Size {
    Size(256 << 20)
}

fn default_vcpus() -> u32 {
    1
}

/// Errors that are made here get the line from the parser.
fn guest_memory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
    struct Words;
    impl serde::de::Visitor<'_> for Words {
        type Value = u64;

        fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            f.write_str("a size in quotes, like \"256M\"")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<u64, E> {
            parse_size(text).map_err(E::custom)
        }
    }
    let bytes = deserializer.deserialize_str(Words)?;
    if bytes < LEAST_MEMORY {
        let (bytes, least) = (Size(bytes), Size(LEAST_MEMORY));
        return Err(D::Error::custom(format!("{bytes} is too little, a guest needs at least {least}")));
    }
    if !bytes.is_multiple_of(PAGE_SIZE) {
        return Err(D::Error::custom(format!("{bytes} bytes are not a multiple of 4K")));
    }
    Ok(Size(bytes))
}

fn write_size<S: Serializer>(size: &Size, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(size)
}

/// As much as a guest has at least.
fn squeezed_to<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Size>, D::Error> {
    guest_memory(deserializer).map(Some)
}

fn write_optional_size<S: Serializer>(size: &Option<Size>, serializer: S) -> Result<S::Ok, S::Error> {
    match size {
        Some(size) => serializer.collect_str(size),
        None => serializer.serialize_none(),
    }
}

fn vcpus<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    match u32::deserialize(deserializer)? {
        0 => Err(D::Error::custom("a guest needs a virtual processor")),
        count @ 1..=MAX_VCPUS => Ok(count),
        count => {
            Err(D::Error::custom(format!("{count} virtual processors, a guest has at most {MAX_VCPUS}")))
        }
    }
}

fn merge_share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    match u32::deserialize(deserializer)? {
        share @ 1..=100 => Ok(share),
        share => Err(D::Error::custom(format!("{share} percent of a processor: 1 to 100"))),
    }
}

/// Largest weight.
const MAX_WEIGHT: u32 = 10_000;

fn default_weight() -> u32 {
    100
}

fn is_default_weight(weight: &u32) -> bool {
    *weight == default_weight()
}

fn weight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    match u32::deserialize(deserializer)? {
        weight @ 1..=MAX_WEIGHT => Ok(weight),
        weight => Err(D::Error::custom(format!("weight {weight}: 1 to {MAX_WEIGHT}"))),
    }
}
