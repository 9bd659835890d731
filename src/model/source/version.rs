//! The digest that tells model versions apart.
//!
//! Invariant: whatever makes a model's numbers is in it, but for the type of the weights and the device, which are named beside it.

use super::blueprint::Blueprint;
use super::fingerprint::Fingerprint;
use crate::answer_only::AnswerOnly;
use crate::engine::Texts;
use crate::model::checkpoint::digest_memory::DigestMemory;
use crate::model::compute::kernels::REVISION;
use crate::model::error::ModelError;

/// Number of the rules by which the sidecar makes tokens of chats and text, beyond tokenizer, template and `bos`. Whoever changes
/// those rules so that some text has other tokens counts it up, so that no version stands for two numbers. 2: chats begin as the
/// template begins them, and an end of turn that a completion brings is taken off.
const TEXT_RULES: &[u8] = b"2";

/// The same for what is so with conversations of named templates alone, so that the versions of other models stay. 1: each ends turns and
/// marks thinking in its own way.
const NAMED_TEMPLATE_RULES: &[u8] = b"1";

impl Blueprint {
    /// A digest of everything that makes the model's numbers.
    pub fn fingerprint(&self, attributes: &[String], memory: &DigestMemory) -> Result<String, ModelError> {
        let mut fingerprint = Fingerprint::default();
        for ingredient in &self.ingredients {
            ingredient.add_to(&mut fingerprint, |path| memory.tree_hash(path))?;
        }
        fingerprint.add("settings", self.settings.value().to_string().as_bytes());
        if self.text.tokenizer_json.is_some() {
            fingerprint.add("text rules", TEXT_RULES);
        }
        fingerprint.add("tokenizer", self.text.tokenizer_json.as_deref().unwrap_or_default());
        fingerprint.add("template", self.text.chat_template.as_deref().unwrap_or_default().as_bytes());
        if !self.text.named_templates.is_empty() {
            fingerprint.add("named templates", format!("{:?}", self.text.named_templates).as_bytes());
            fingerprint.add("rules of named templates", NAMED_TEMPLATE_RULES);
        }
        match &self.text.texts {
            Texts::One => {}
            Texts::Pair => fingerprint.add("pair", format!("{:?}", self.separator).as_bytes()),
            Texts::Comparison(comparison) => fingerprint.add("comparison", format!("{comparison:?}").as_bytes()),
        }
        if let Some(date) = &self.text.template_date {
            fingerprint.add("template date", date.as_bytes());
        }
        if let Some(AnswerOnly { open, close, .. }) = &self.text.answer_only {
            fingerprint.add("answer only", format!("{open:?} {close:?}").as_bytes());
        }
        // Maps print in the order of their keys, and floats so that they read back the same.
        fingerprint.add("variables", format!("{:?} {:?}", self.text.template_variables, self.text.bos).as_bytes());
        fingerprint.add("attributes", format!("{attributes:?}").as_bytes());
        fingerprint.add("weightings", format!("{:?} {:?}", self.weightings, self.default_weighting).as_bytes());
        let mut reads = format!("{:?}", self.reads);
        // Anchors are the last field and came late: a model without any keeps the version that it had.
        if let Some(others) = reads.strip_suffix(", anchors: [] }") {
            reads = format!("{others} }}");
        }
        fingerprint.add("head", format!("{reads} {:?}", self.head).as_bytes());
        // Without them the model may be another than its configuration says.
        if !self.settings.ignored().is_empty() {
            fingerprint.add("ignored fields", format!("{:?}", self.settings.ignored()).as_bytes());
        }
        // The type of the weights and the device are named beside the digest, which tells models apart.
        fingerprint.add("arithmetic", &REVISION.to_le_bytes());
        Ok(fingerprint.short())
    }
}
