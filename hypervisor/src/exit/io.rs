//! Port accesses (SDM vol. 3C 28.1.3, table 28-5). String forms move one element an exit and leave RIP where
//! it is until RCX is used up.

use super::{Flow, ept, misc};
use crate::plat::Vm;
use crate::vcpu::{Vcpu, register};
use addr::Gva;
use devices::VcpuId;
use vmxdefs::event::Event;
use vmxdefs::exit::{Direction, IoAccess};
use vmxdefs::field::Field;

const DIRECTION_FLAG: u64 = 1 << 10;

pub(super) fn handle(vcpu: &mut Vcpu, vm: &Vm, access: IoAccess) -> Flow {
    if access.string {
        return string(vcpu, vm, access);
    }
    let rax = vcpu.registers.general[register::RAX];
    let all = u64::MAX >> (64 - u32::from(access.width) * 8);
    match access.direction {
        Direction::Out => {
            vcpu.skip_instruction();
            write(vcpu.id, vm, (access.port, access.width), (rax & all) as u32)
        }
        Direction::In => {
            let value = u64::from(read(vcpu.id, vm, (access.port, access.width))) & all;
            // A 32-bit result clears the upper half, narrower ones keep the rest.
            let kept = if access.width == 4 { 0 } else { rax & !all };
            vcpu.registers.general[register::RAX] = kept | value;
            misc::skip(vcpu)
        }
    }
}

fn string(vcpu: &mut Vcpu, vm: &Vm, access: IoAccess) -> Flow {
    let information = vcpu.vmcs.read(Field::ExitInstructionInformation);
    // Bits 9:7: address size, 16, 32 or 64 bits (table 28-14).
    let address_mask = match information >> 7 & 7 {
        0 => 0xffff,
        1 => 0xffff_ffff,
        _ => u64::MAX,
    };
    let count = vcpu.registers.general[register::RCX] & address_mask;
    if access.repeated && count == 0 {
        return misc::skip(vcpu);
    }
    let linear = Gva::try_new(vcpu.vmcs.read(Field::GuestLinearAddress));
    let Some(flow) = linear.and_then(|linear| element(vcpu, vm, access, linear)) else {
        // The guest's tables changed under its own instruction, or the buffer is no RAM.
        return misc::refuse(vcpu, Event::GENERAL_PROTECTION);
    };
    let index = match access.direction {
        Direction::In => register::RDI,
        Direction::Out => register::RSI,
    };
    let forward = vcpu.vmcs.read(Field::GuestRflags) & DIRECTION_FLAG == 0;
    let step = if forward { u64::from(access.width) } else { u64::from(access.width).wrapping_neg() };
    step_register(vcpu, index, step, address_mask);
    if access.repeated {
        step_register(vcpu, register::RCX, u64::MAX, address_mask);
    }
    if !access.repeated || count == 1 {
        vcpu.skip_instruction();
    }
    flow
}

/// IN from a port, of so many bytes.
pub(super) fn read(vcpu: VcpuId, vm: &Vm, (port, width): (u16, u8)) -> u32 {
    let now = vm.clock.now();
    let value = vm.with_board(vcpu, |board| board.port_read(port, width, now));
    // A guest that has read its UART has room for more.
    vm.let_input_come();
    value
}

/// OUT to a port, of so many bytes.
pub(super) fn write(vcpu: VcpuId, vm: &Vm, (port, width): (u16, u8), value: u32) -> Flow {
    let effect = vm.port_write(vcpu, port, width, value, vm.clock.now());
    vm.apply(vcpu, effect)
}

/// Moves one element between the port and memory.
fn element(vcpu: &mut Vcpu, vm: &Vm, access: IoAccess, linear: Gva) -> Option<Flow> {
    let port = (access.port, access.width);
    let width = usize::from(access.width);
    let mut bytes = [0; 4];
    match access.direction {
        Direction::In => {
            // Where it goes is looked up first: a byte taken from a device cannot be put back.
            let gpa = ept::translate(vcpu, vm, linear)?;
            bytes = read(vcpu.id, vm, port).to_le_bytes();
            let written = vm.memory.write(gpa, &bytes[..width]);
            written.inspect_err(|error| log::debug!("guest: {error}")).ok()?;
            Some(Flow::Resume)
        }
        Direction::Out => {
            ept::read_linear(vcpu, vm, linear, &mut bytes[..width]).then_some(())?;
            Some(write(vcpu.id, vm, port, u32::from_le_bytes(bytes)))
        }
    }
}

/// Adds to the part of a register that the address size covers.
fn step_register(vcpu: &mut Vcpu, number: usize, step: u64, mask: u64) {
    let old = vcpu.registers.general[number];
    let kept = if mask == 0xffff { old & !mask } else { 0 };
    vcpu.registers.general[number] = kept | (old.wrapping_add(step) & mask);
}
