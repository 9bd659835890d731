//! From a model reference to everything that a model is made of, before any number is computed.
//!
//! Whatever the kind of reference, what comes out is a [`Blueprint`] in Hugging Face's terms, so that nothing after it
//! knows where a model came from. Two things meet in it: the weights ([`super::base`]) and how they are to be used
//! ([`super::preset`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::base::{self, Opened};
use super::fingerprint::Ingredient;
use super::manifest::AdapterPart;
use super::preset::{self, CardCheck, PresetReport, Tokens, check_weightings};
use super::reference::{Found, MANIFEST_FILE, Place};
use crate::engine::{ReadPolicy, TextAssets, Texts};
use crate::model::checkpoint::{ATTRIBUTE_WEIGHTS, Adapter, Composed, Rounding, SafetensorsFile, WeightSource};
use crate::model::config::Config;
use crate::model::error::ModelError;
use crate::model::network::arch;
use crate::model::network::head::HeadSpec;
use crate::model::settings::Settings;
use crate::model::text;

/// Name of the weighting that a checkpoint brings itself.
const MERGED: &str = "merged";

/// Name of the weighting that is the default where no other is said to be.
const DEFAULT: &str = "default";

/// Everything that a model is made of.
pub struct Blueprint {
    /// Name of the model.
    pub name: String,
    /// The preset in use.
    pub preset: Option<PresetReport>,
    /// Scores that the model's card prints.
    pub card_checks: Vec<CardCheck>,
    /// The configuration, as `config.json` says it.
    pub settings: Settings,
    /// The weights.
    pub weights: Box<dyn WeightSource>,
    /// The weights of the head, where it is apart.
    pub head_weights: Option<Box<dyn WeightSource>>,
    /// Tokenizer and template.
    pub text: TextAssets,
    /// Names of the outputs; `None` if nothing names them.
    pub attributes: Option<Vec<String>>,
    /// Named vectors of attribute weights.
    pub weightings: BTreeMap<String, BTreeMap<String, f64>>,
    /// The weighting that counts where a request names none.
    pub default_weighting: Option<String>,
    /// Where the head reads.
    pub reads: ReadPolicy,
    /// What kind of head it is.
    pub head: HeadSpec,
    /// The token behind the first text of a pair, where rollouts are pairs.
    pub separator: Option<u32>,
    /// Every file that the model was read from; embedded ones are not.
    pub files: Vec<PathBuf>,
    /// What the weights are made of, for the fingerprint.
    pub(super) ingredients: Vec<Ingredient>,
}

impl Blueprint {
    /// Finds out what a reference names, and how it is to be used.
    pub fn open(config: &Config) -> Result<Self, ModelError> {
        let found = Found::find(config)?;
        let Opened { mut settings, weights, mut text, mut files, mut ingredients } = base::open(&found.base)?;
        settings.ignore(&config.ignore_fields)?;
        let Found { name, place, manifest, .. } = found;
        files.extend(place.manifest_file());
        let mut manifest = manifest.unwrap_or_default();
        let (base, adapter) = (manifest.base.take().unwrap_or_default(), manifest.adapter.take());
        if let Some(layers) = base.layers {
            keep_layers(layers, &mut settings, &place)?;
        }

        let named = manifest.preset.take();
        let chosen = preset::choose(
            &config.preset,
            named.as_deref(),
            &place.resolve(Path::new("")),
            &settings,
            weights.as_ref(),
        )?;
        let report = chosen.as_ref().map(|chosen| PresetReport {
            name: chosen.preset.name.clone(),
            why: chosen.why.clone(),
            unverified: chosen.preset.unverified.clone(),
        });
        // Whoever has named a preset or a default has said what counts; a preset that was merely known has not.
        let told = manifest.default_weighting.is_some() || named.is_some() || config.preset != "auto";
        let mut used = match chosen {
            Some(chosen) => manifest.over(chosen.preset).complete(&place.path())?,
            None => manifest.complete(&place.path())?,
        };
        if let Some(body) = used.body(&settings)?.map(str::to_owned) {
            settings.set("architectures", vec![body]);
        }
        // Before anything is missed in it that only other architectures say.
        arch::check(&settings)?;

        let mut parts = Parts { place: &place, files: &mut files, ingredients: &mut ingredients };
        parts.ingredients.push(Ingredient::Fact(format!("rounding {:?}", base.dtype)));
        let layers = settings.required_size("num_hidden_layers")?;
        let head_is_apart = config.head.is_some() || used.head.file.is_some();
        // One folder has the weights of an adapter and the text that it was trained with.
        let adapter = match (&config.adapter, adapter.filter(|_| config.adapters.is_empty())) {
            (Some(folder), _) => Some(parts.adapter_folder(folder, weights.as_ref(), layers, &mut text)?),
            (None, Some(part)) => Some(parts.adapter(&part, weights.as_ref(), layers, head_is_apart, &mut text)?),
            (None, None) => None,
        };
        if let Some(adapter) = &adapter {
            adapted_settings(adapter, &mut settings);
        }
        let head_weights = match (&config.head, used.head.file.take()) {
            (Some(path), _) => Some(parts.head(path.clone())?),
            (None, Some(file)) => Some(parts.head_of_manifest(&file)?),
            (None, None) => None,
        };
        if let Some(bos) = used.bos {
            text.bos = bos;
        }
        if let Some(template) = used.chat_template.take() {
            text.chat_template = Some(template);
            // They are the model's own as well, in whose place the other one stands.
            text.named_templates.clear();
        }
        text.texts = used.texts();
        text.template_date.clone_from(&config.template_date);
        text.answer_only = used.answer_only.take().and_then(|wish| wish.0).filter(|wish| !wish.off);
        if text.answer_only.is_some() && text.tokenizer_json.is_none() {
            let reason =
                "answer_only takes out what stands between two marks, but the model has no tokenizer to know them by";
            return Err(ModelError::malformed(&place.path(), reason));
        }
        let mut reads = used.read.policy(report.as_ref().map(|report| &*report.name), &settings, &text)?;
        reads.anchors = arch::anchors(&settings)?;
        let mut head = used.head.over_own(arch::own_head(&settings)?);
        let tokens = Tokens { preset: report.as_ref().map(|report| &*report.name), settings: &settings, text: &text };
        tokens.in_options(&mut head.options)?;
        let separator = if text.texts == Texts::Pair { tokens.special("pair", "sep_token")? } else { None };
        if let Texts::Comparison(comparison) = &text.texts {
            tokens.check_anchors(&comparison.anchors, &reads.anchors)?;
        }
        let all = match used.attributes.clone() {
            Some(all) => Some(all),
            None => settings.labels()?,
        };
        let attributes = match used.attributes.take() {
            Some(all) if config.untrained_attributes || used.untrained.is_empty() => Some(all),
            Some(all) => Some(trained(&all, &used.untrained, &mut head, &place)?),
            None => all.clone(),
        };
        let own = settings.numbers(ATTRIBUTE_WEIGHTS)?;
        if let (Some(own), Some(all), Some(attributes)) = (own, &all, &attributes)
            && (!told || used.default_weighting.is_none())
        {
            let weights = merged(&settings, &own, all, attributes)?;
            used.weightings.insert(MERGED.into(), weights);
            used.default_weighting = Some(MERGED.into());
        }
        if used.default_weighting.is_none() && used.weightings.contains_key(DEFAULT) {
            used.default_weighting = Some(DEFAULT.into());
        }
        if let Some(attributes) = &attributes {
            check_weightings(attributes, &used.weightings, used.default_weighting.as_deref())
                .map_err(|e| ModelError::malformed(settings.path(), e))?;
        }
        let plain = base.dtype == Rounding::F32 && adapter.is_none();
        Ok(Self {
            name,
            preset: report,
            card_checks: used.card_checks.into_iter().filter(|check| check.fits(settings.value())).collect(),
            weights: if plain { weights } else { Box::new(Composed { base: weights, rounding: base.dtype, adapter }) },
            head_weights,
            settings,
            text,
            attributes,
            weightings: used.weightings,
            default_weighting: used.default_weighting,
            reads,
            head,
            separator,
            files,
            ingredients,
        })
    }

    /// The model is one of several on the same base, with a name of its own. Its adapter, if it has one, is not merged, which rounds
    /// otherwise.
    pub fn beside_others(&mut self, name: &str, has_adapter: bool) {
        name.clone_into(&mut self.name);
        if has_adapter {
            self.ingredients.push(Ingredient::Fact("unmerged".into()));
        }
    }

    /// Keeps a tokenizer's file once, where the base has the same.
    pub fn share_text(&mut self, base: &Self) {
        if self.text.tokenizer_json == base.text.tokenizer_json {
            self.text.tokenizer_json.clone_from(&base.text.tokenizer_json);
        }
    }

    /// What to say where the model has no such head as it is used with.
    pub fn headless_hint(&self) -> String {
        let architecture = self.settings.architecture().unwrap_or_default();
        let candidates = preset::candidates(architecture);
        let presets = match (&self.preset, candidates.is_empty()) {
            (Some(preset), _) => format!("--preset other than {} ({})", preset.name, preset.why),
            (None, true) => "--preset".to_owned(),
            (None, false) => format!("--preset (for {architecture}: {})", candidates.join(", ")),
        };
        format!(
            "; a model becomes a reward model by a {presets}, by --head FILE where the head is apart, or by a {MANIFEST_FILE} \
             that says what its head is"
        )
    }
}

/// Opens what a model is composed of, and keeps account of it.
struct Parts<'a> {
    place: &'a Place,
    files: &'a mut Vec<PathBuf>,
    ingredients: &'a mut Vec<Ingredient>,
}

impl Parts<'_> {
    fn adapter(
        &mut self,
        part: &AdapterPart,
        base: &dyn WeightSource,
        layers: usize,
        head_is_apart: bool,
        text: &mut TextAssets,
    ) -> Result<Adapter, ModelError> {
        match (&part.path, &part.file, part.scale) {
            (Some(folder), ..) => self.adapter_folder(&self.place.resolve(folder), base, layers, text),
            (None, Some(file), Some(scale)) => {
                let source = self.safetensors(file)?;
                self.ingredients.push(Ingredient::Fact(format!("scale {scale:?}")));
                Adapter::new(Box::new(source), scale, base, layers, head_is_apart)
            }
            _ => unreachable!("AdapterPart::check asks for a path, or for a file and a scale"),
        }
    }

    /// An adapter in PEFT's layout. Tokenizer and template beside it are those that it was trained with.
    fn adapter_folder(
        &mut self,
        folder: &Path,
        base: &dyn WeightSource,
        layers: usize,
        text: &mut TextAssets,
    ) -> Result<Adapter, ModelError> {
        let adapter = Adapter::open_folder(folder, base, layers)?;
        self.ingredients.push(Ingredient::Fact("adapter".into()));
        self.ingredients.extend(adapter.paths().iter().cloned().map(Ingredient::File));
        self.files.extend_from_slice(adapter.paths());
        let (beside, files) = text::folder::read(folder)?;
        *text = text::over(beside, std::mem::take(text));
        self.files.extend(files);
        Ok(adapter)
    }

    fn head_of_manifest(&mut self, file: &Path) -> Result<Box<dyn WeightSource>, ModelError> {
        self.ingredients.push(Ingredient::Fact("head".into()));
        Ok(Box::new(self.safetensors(file)?))
    }

    /// A head in a file that the user names.
    fn head(&mut self, path: PathBuf) -> Result<Box<dyn WeightSource>, ModelError> {
        self.ingredients.push(Ingredient::Fact("head".into()));
        self.ingredients.push(Ingredient::File(path.clone()));
        self.files.push(path.clone());
        Ok(Box::new(SafetensorsFile::open(&path)?))
    }

    fn safetensors(&mut self, file: &Path) -> Result<SafetensorsFile, ModelError> {
        let path = self.place.resolve(file);
        let Place::Embedded(demo) = self.place else {
            self.ingredients.push(Ingredient::File(path.clone()));
            self.files.push(path.clone());
            return SafetensorsFile::open(&path);
        };
        let Some(bytes) = demo.file(file) else {
            return Err(ModelError::malformed(&self.place.path(), format!("{} is not built in", file.display())));
        };
        self.ingredients.push(Ingredient::Embedded(bytes));
        SafetensorsFile::embedded(path, bytes)
    }
}

/// What the base's configuration says, as it is with an adapter: one of a classifier was trained as transformers'
/// `*ForSequenceClassification` of whatever base, which skips padding, and one that brings an embedding table says how many
/// tokens there are.
fn adapted_settings(adapter: &Adapter, settings: &mut Settings) {
    let body = settings.architecture().ok().and_then(|name| name.strip_suffix("ForCausalLM")).map(str::to_owned);
    if let (true, Some(body)) = (adapter.classifies(), body) {
        settings.set("architectures", vec![format!("{body}ForSequenceClassification")]);
    }
    if let Some(tokens) =
        adapter.vocabulary().filter(|tokens| settings.size("vocab_size").ok().flatten() != Some(*tokens))
    {
        settings.set("vocab_size", tokens);
    }
}

/// Cuts off a base's last layers.
fn keep_layers(layers: usize, settings: &mut Settings, place: &Place) -> Result<(), ModelError> {
    let found = settings.required_size("num_hidden_layers")?;
    if layers > found {
        let reason = format!("base.layers is {layers}, but {} has {found}", settings.path().display());
        return Err(ModelError::malformed(&place.path(), reason));
    }
    settings.set("num_hidden_layers", layers);
    Ok(())
}

/// The weights by which a checkpoint makes one reward of its attributes; `all` are its outputs, of which `attributes` are
/// offered.
fn merged(
    settings: &Settings,
    weights: &[f64],
    all: &[String],
    attributes: &[String],
) -> Result<BTreeMap<String, f64>, ModelError> {
    if weights.len() != all.len() {
        return Err(settings.unsupported(ATTRIBUTE_WEIGHTS, format!("a weight for each of {} outputs", all.len())));
    }
    let weighed = all.iter().zip(weights).filter(|(_, weight)| **weight != 0.0);
    if let Some((name, _)) = weighed.clone().find(|(name, _)| !attributes.contains(name)) {
        let expected = format!(
            "no weight for {name}, which was never trained; name a preset and a default_weighting in a {MANIFEST_FILE}, or \
             give --untrained-attributes true to have it all the same"
        );
        return Err(settings.unsupported(ATTRIBUTE_WEIGHTS, expected));
    }
    Ok(weighed.map(|(name, weight)| (name.clone(), *weight)).collect())
}

/// The attributes that were trained; the head is told which rows they are.
fn trained(
    all: &[String],
    untrained: &[String],
    head: &mut HeadSpec,
    place: &Place,
) -> Result<Vec<String>, ModelError> {
    for option in ["rows", "outputs"] {
        if head.options.contains_key(option) {
            let reason =
                format!("head.{option} and untrained both say which rows of the head are attributes; name one");
            return Err(ModelError::malformed(&place.path(), reason));
        }
    }
    let kept: Vec<usize> = (0..all.len()).filter(|&row| !untrained.contains(&all[row])).collect();
    let rows: Vec<_> = kept.iter().map(|&row| toml::Value::Integer(row as i64)).collect();
    head.options.insert("rows".into(), rows.into());
    head.options.insert("outputs".into(), toml::Value::Integer(all.len() as i64));
    Ok(kept.into_iter().map(|row| all[row].clone()).collect())
}
