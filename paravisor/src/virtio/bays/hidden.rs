//! Turns of those that no guest sees on its bus: the records, firmware's variables, the screen.

use core::sync::atomic::Ordering;

use stockade_backend::HostBus;

use super::Bays;
use crate::machine::SlotFunction;
use crate::virtio::Turn;

impl Bays {
    pub(super) fn serve_screen(&self, bus: &mut dyn HostBus, now_ns: u64) {
        let Some(screen) = &self.screen else {
            return;
        };
        let turn = screen.turn(bus, now_ns);
        self.due.0.fetch_min(screen.due_ns(), Ordering::SeqCst);
        if turn == Turn::More {
            screen.accessed();
        }
    }

    pub(super) fn serve_variables(&self) {
        if let Some(variables) = &self.variables
            && variables.turn() == Turn::More
        {
            variables.accessed();
        }
    }

    pub(super) fn serve_records(&self, bus: &mut dyn HostBus, now_ns: u64) {
        let Some(records) = &self.records else {
            return;
        };
        let progress = records.turn(bus, Some(now_ns));
        self.due.0.fetch_min(records.due_ns(), Ordering::SeqCst);
        if progress.turn == Turn::More {
            records.accessed();
        }
        if progress.has_news {
            let clients = self.bays.iter().filter(|(_, bay)| bay.keeps_records);
            clients.for_each(|(_, bay)| bay.accessed());
            self.variables.iter().for_each(|it| it.accessed());
            if let Some(bell) = &self.bell {
                bell.ring();
            }
        }
    }
}
