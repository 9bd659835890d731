//! The parts of a rollout's way whose time is taken.

/// A part of a rollout's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Checks, template, tokens.
    Intake,
    /// From receipt until it is in the queue: intake, and waiting for a tokenizer and for room.
    Admission,
    /// From acceptance into the queue to the start of the forward pass.
    Queue,
    /// Packing of a micro-batch.
    Pack,
    /// The forward pass of a micro-batch.
    Forward,
    /// Aggregation and answer of a scored rollout.
    Reply,
    /// From receipt to the answer of a scored rollout.
    Total,
}

impl Stage {
    /// Every stage.
    pub const ALL: &[Stage] =
        &[Stage::Intake, Stage::Admission, Stage::Queue, Stage::Pack, Stage::Forward, Stage::Reply, Stage::Total];

    /// The value of the label `stage`; four of the stages have spans of these names.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Intake => "intake",
            Stage::Admission => "admission",
            Stage::Queue => "queue",
            Stage::Pack => "pack",
            Stage::Forward => "forward",
            Stage::Reply => "reply",
            Stage::Total => "total",
        }
    }
}
