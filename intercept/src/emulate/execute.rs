//! The instructions by name, each sent to its family.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::alu::Binary;
use super::guest::Guest;
use super::shift::Shift;
use super::vector::Lane;
use super::{Done, Exception, MmioBus, Stop};
use crate::debug::Transfer;

/// Where execution goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// After the instruction.
    Next,
    /// At another address.
    Jump(u64),
    /// At the same instruction: it has more elements.
    Repeat,
}

/// One instruction about to be executed.
pub(super) struct Executor<'a, B: ?Sized> {
    pub(super) guest: Guest<'a, B>,
    pub(super) instruction: Instruction,
}

impl<B: MmioBus + ?Sized> Executor<'_, B> {
    /// Executes the instruction and completes it.
    pub(super) fn run(mut self) -> Result<Done, Stop> {
        let flags_before = self.guest.cpu.flags();
        let flow = self.dispatch()?;
        let cpu = &mut self.guest.cpu;
        let (rip, transfer) = match flow {
            Flow::Next => (cpu.mode.wrap(self.instruction.next_ip()), Transfer::None),
            Flow::Jump(target) => (target, Transfer::Branch),
            Flow::Repeat => return Ok(cpu.pause(flags_before)),
        };
        Ok(cpu.complete(rip, flags_before, transfer))
    }

    fn dispatch(&mut self) -> Result<Flow, Stop> {
        use Mnemonic as M;
        if self.instruction.is_string_instruction() {
            return self.string();
        }
        match self.instruction.mnemonic() {
            M::Mov | M::Movnti => self.mov(),
            M::Movzx => self.extend(|value, _| value),
            M::Movsx | M::Movsxd => self.extend(|value, width| width.sign_extend(value)),
            M::Movbe => self.swap_bytes(),
            M::Add => self.binary(Binary::Add),
            M::Adc => self.binary(Binary::Adc),
            M::Sub => self.binary(Binary::Sub),
            M::Sbb => self.binary(Binary::Sbb),
            M::And => self.binary(Binary::And),
            M::Or => self.binary(Binary::Or),
            M::Xor => self.binary(Binary::Xor),
            M::Cmp => self.compare(Binary::Sub),
            M::Test => self.compare(Binary::And),
            M::Inc => self.increment(),
            M::Dec => self.decrement(),
            M::Neg => self.negate(),
            M::Not => self.complement(),
            M::Shl | M::Sal => self.shift(Shift::Left),
            M::Shr => self.shift(Shift::Right),
            M::Sar => self.shift(Shift::ArithmeticRight),
            M::Rol => self.shift(Shift::RotateLeft),
            M::Ror => self.shift(Shift::RotateRight),
            M::Rcl => self.shift(Shift::RotateCarryLeft),
            M::Rcr => self.shift(Shift::RotateCarryRight),
            M::Shld | M::Shrd => self.double_shift(),
            M::Mul | M::Imul => self.multiply(),
            M::Div | M::Idiv => self.divide(),
            M::Bt => self.bit_test(),
            M::Bts => self.bit_change(|value, bit| value | bit),
            M::Btr => self.bit_change(|value, bit| value & !bit),
            M::Btc => self.bit_change(|value, bit| value ^ bit),
            M::Xchg => self.exchange(),
            M::Xadd => self.exchange_add(),
            M::Cmpxchg => self.compare_exchange(),
            M::Cmpxchg8b | M::Cmpxchg16b => self.compare_exchange_pair(),
            M::Push => self.push(),
            M::Pop => self.pop(),
            M::Call => self.call(),
            M::Jmp => self.jump(),
            M::Clflush | M::Clflushopt | M::Clwb => self.touch(),
            _ => self.dispatch_conditional(),
        }
    }

    fn dispatch_conditional(&mut self) -> Result<Flow, Stop> {
        use Mnemonic as M;
        match self.instruction.mnemonic() {
            M::Cmovo
            | M::Cmovno
            | M::Cmovb
            | M::Cmovae
            | M::Cmove
            | M::Cmovne
            | M::Cmovbe
            | M::Cmova
            | M::Cmovs
            | M::Cmovns
            | M::Cmovp
            | M::Cmovnp
            | M::Cmovl
            | M::Cmovge
            | M::Cmovle
            | M::Cmovg => self.conditional_move(),
            M::Seto
            | M::Setno
            | M::Setb
            | M::Setae
            | M::Sete
            | M::Setne
            | M::Setbe
            | M::Seta
            | M::Sets
            | M::Setns
            | M::Setp
            | M::Setnp
            | M::Setl
            | M::Setge
            | M::Setle
            | M::Setg => self.set_condition(),
            M::Movaps
            | M::Movapd
            | M::Movdqa
            | M::Movntps
            | M::Movntpd
            | M::Movntdq
            | M::Movntdqa => self.vector_aligned(),
            M::Movups | M::Movupd | M::Movdqu | M::Lddqu => self.vector(Lane::Whole),
            M::Movd | M::Movq | M::Movss | M::Movsd => self.vector(Lane::LowAlone),
            M::Movlps | M::Movlpd => self.vector(Lane::Low),
            M::Movhps | M::Movhpd => self.vector(Lane::High),
            M::Ud0 | M::Ud1 | M::Ud2 => Err(Stop::Exception(Exception::INVALID_OPCODE)),
            _ => Err(self.unsupported()),
        }
    }

    /// Returns the refusal of this instruction.
    pub(super) fn unsupported(&self) -> Stop {
        Stop::Unsupported(self.instruction.code())
    }
}

/// Returns whether the instruction accesses memory in one place only, so that a fault's address is that place.
pub(super) fn has_one_memory_operand(instruction: &Instruction) -> bool {
    let operands = instruction.op_kinds();
    operands.into_iter().any(|kind| kind == OpKind::Memory)
        && instruction.stack_pointer_increment() == 0
}
