//! What Herald is to do: as xtask has encoded it, or as people write it (`startup::config`).

use super::BootError;
use abi::config::BootConfig;
use abi::package::{Kind, Table};
use alloc::boxed::Box;
use alloc::vec::Vec;
use startup::config::{ConfigFile, Module};

/// Reads the configuration of a boot package.
///
/// # Errors
/// There is none, or it cannot be read.
pub(super) fn read(table: &Table<'static>, package: &'static [u8]) -> Result<BootConfig<'static>, BootError> {
    let payload = |kind| table.find(kind).and_then(|entry| entry.payload(package));
    match (payload(Kind::Config), payload(Kind::Settings)) {
        (Some(config), _) => postcard::from_bytes(config).map_err(BootError::Config),
        (None, Some(settings)) => from_text(settings, table),
        (None, None) => Err(BootError::NoConfig),
    }
}

fn from_text(settings: &[u8], table: &Table<'static>) -> Result<BootConfig<'static>, BootError> {
    let images = table.entries().iter().enumerate().filter(|(_, entry)| entry.kind() == Some(Kind::File));
    let modules: Vec<Module<'_>> =
        images.map(|(index, entry)| Module { name: entry.name(), entry: index as u32 }).collect();
    // For as long as Herald runs.
    let file = Box::leak(Box::new(ConfigFile::parse(settings).map_err(BootError::Settings)?));
    file.boot_config(&modules).map_err(BootError::Settings)
}
