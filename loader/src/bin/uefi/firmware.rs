//! What firmware knows: where ACPI's tables are, what the screen is like, which memory there is.

use abi::handoff::Screen;
use loader::efi::{Descriptor, Mode, Pixels};
use uefi::boot::{self, OpenProtocolAttributes, OpenProtocolParams, SearchType};
use uefi::mem::memory_map::MemoryMap;
use uefi::proto::console::gop::{GraphicsOutput, PixelFormat};
use uefi::table::cfg::ConfigTableEntry;
use uefi::{Handle, Identify, system};

/// ACPI's root pointer, host physical: that of ACPI 2.0, else of 1.0, else 0 (UEFI 2.10, 4.6).
pub(crate) fn rsdp() -> u64 {
    system::with_config_table(|entries| {
        let of = |guid| entries.iter().find(|entry| entry.guid == guid);
        let entry = of(ConfigTableEntry::ACPI2_GUID).or_else(|| of(ConfigTableEntry::ACPI_GUID));
        entry.map_or(0, |entry| entry.address as u64)
    })
}

/// The first screen that can be written to, in the mode that it has.
pub(crate) fn screen() -> Screen {
    let handles = boot::locate_handle_buffer(SearchType::ByProtocol(&GraphicsOutput::GUID));
    let handles = handles.as_deref().unwrap_or_default();
    handles
        .iter()
        .filter_map(mode)
        .map(|mode| mode.screen())
        .find(|&screen| screen != Screen::NONE)
        .unwrap_or(Screen::NONE)
}

fn mode(&handle: &Handle) -> Option<Mode> {
    let params = OpenProtocolParams { handle, agent: boot::image_handle(), controller: None };
    // SAFETY: looked at, and closed before anything else is done. (Exclusively, it would be taken from the console.)
    let output =
        unsafe { boot::open_protocol::<GraphicsOutput>(params, OpenProtocolAttributes::GetProtocol) };
    let mut output = output.ok()?;
    let info = output.current_mode_info();
    let pixels = match (info.pixel_format(), info.pixel_bitmask()) {
        (PixelFormat::Rgb | PixelFormat::Bgr, _) => Pixels::FourBytes,
        (_, Some(masks)) => Pixels::Masks([masks.red, masks.green, masks.blue, masks.reserved]),
        _ => return None,
    };
    let mut buffer = output.frame_buffer();
    let (width, height) = info.resolution();
    Some(Mode {
        address: buffer.as_mut_ptr() as u64,
        bytes: buffer.size() as u64,
        pixels,
        width: width as u32,
        height: height as u32,
        stride: info.stride() as u32,
    })
}

/// The entries of a memory map.
pub(crate) fn descriptors(map: &impl MemoryMap) -> impl Iterator<Item = Descriptor> + Clone {
    map.entries().map(|entry| Descriptor {
        kind: entry.ty.0,
        start: entry.phys_start,
        pages: entry.page_count,
        attributes: entry.att.bits(),
    })
}
