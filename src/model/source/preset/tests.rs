use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::model::checkpoint::{Rounding, Slice, TensorInfo, WeightSource};
use crate::model::compute::dtype::Precision;
use crate::model::network::head::HEADS;

const SMALL: &str = "name = 'm'\nattributes = ['a', 'b']\n";

fn refused(text: &str) -> String {
    Preset::parse(text).unwrap_err()
}

fn settings(config: Value) -> Settings {
    Settings::new(Path::new("config.json"), config).unwrap()
}

/// Weights of which only the names count here.
struct Tensors(&'static [&'static str]);

impl WeightSource for Tensors {
    fn info(&self, name: &str) -> Option<TensorInfo> {
        let known = self.0.contains(&name);
        known.then(|| TensorInfo { shape: vec![1], precision: Precision::F32 })
    }

    fn read_within(&self, name: &str, _: &Slice) -> Result<Vec<f32>, ModelError> {
        Err(self.missing(name))
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|name| (*name).to_owned()).collect()
    }

    fn origin(&self, _: &str) -> PathBuf {
        PathBuf::from("model.safetensors")
    }

    fn bytes_read(&self) -> u64 {
        0
    }
}

#[test]
fn every_preset_in_the_program_is_whole() {
    let kinds: Vec<_> = HEADS.iter().map(|kind| kind.name()).collect();
    let mut seen = BTreeSet::new();
    for (name, text) in PRESETS {
        let preset = Preset::parse(text).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(preset.name, *name);
        assert!(seen.insert(*name), "{name} is there twice");
        assert!(preset.base.is_none() && preset.adapter.is_none() && preset.head.file.is_none(), "{name}");
        assert!(!preset.models.is_empty() && !preset.architectures.is_empty(), "{name}");
        let whole = preset.clone().complete(&place(name)).unwrap();
        assert!(kinds.contains(&&*whole.head.spec().kind), "{name}");
        let attributes = whole.attributes.expect("a published model's outputs have names");
        // Of several attributes somebody must have said what they are worth, or the preset says that nobody has.
        let said = attributes.len() == 1 || whole.default_weighting.is_some() || !whole.unverified.is_empty();
        assert!(said, "{name}");
        for clause in &preset.detect {
            for architecture in &clause.architectures {
                assert!(preset.architectures.contains(architecture), "{name}: {architecture}");
            }
        }
        assert!(preset.unverified.iter().all(|sentence| sentence.ends_with('.')), "{name}: sentences");
    }
}

/// What each kind of published configuration leads to.
#[test]
fn presets_are_known_by_their_configurations() {
    let causal = json!({"architectures": ["LlamaForCausalLM"]});
    let armorm = json!({"architectures": ["LlamaForRewardModelWithGating"], "num_objectives": 19});
    let qrm =
        |n| json!({"architectures": ["LlamaForRewardModelWithGating31"], "num_objectives": n, "num_quantiles": 19});
    let prm = json!({"architectures": ["Qwen2ForProcessRewardModel"]});
    let classifier = json!({"architectures": ["LlamaForSequenceClassification"], "num_labels": 1});
    let prefix = json!({"architectures": ["LlamaForSequenceClassification"], "value_head_prefix": "value_head"});
    let rlhf = json!({"architectures": ["RewardModel"], "normalize_reward": false});
    let unknown = json!({"architectures": ["RewardModel"]});
    let nemo = |architecture: &str, n| json!({"architectures": [architecture], "num_labels": n, "reward_model_type": "regression"});
    let nemotron = json!({"architectures": ["NemotronForSequenceClassification"], "num_labels": 9});
    let of = |architecture: &str, field: &str, value: i64| json!({"architectures": [architecture], field: value});
    for (config, expected) in [
        (causal, None),
        (armorm, Some("armorm")),
        (json!({"architectures": ["LlamaForRewardModelWithGating"], "num_objectives": 7}), None),
        (qrm(19), Some("qrm")),
        (qrm(5), Some("qrm-v2")),
        (qrm(7), None),
        (json!({"architectures": ["INFORMForSequenceClassification"]}), Some("inf-orm")),
        (of("InternLM2ForRewardModel", "max_position_embeddings", 32768), Some("internlm2-reward")),
        (of("InternLM2ForRewardModel", "max_position_embeddings", 262_144), Some("polar")),
        // As it is published.
        (of("LlamaForRewardModelWithGating", "num_quantiles", 19), None),
        (
            json!({"architectures": ["LlamaForRewardModelWithGating"], "num_objectives": 19, "num_quantiles": 19}),
            Some("qrm"),
        ),
        (of("LlamaForScore", "score_dim", 1), None),
        (
            json!({"architectures": ["Qwen2ForRewardModel"], "hidden_size": 8192, "max_position_embeddings": 4096}),
            Some("qwen2.5-math-rm"),
        ),
        (prm, Some("qwen2.5-math-prm")),
        (classifier, None),
        (prefix, Some("openrlhf")),
        (rlhf, Some("openrlhf")),
        (unknown, None),
        (nemo("NemotronForSequenceClassification", 9), Some("nemotron-4-340b-reward")),
        (nemo("NemotronForSequenceClassification", 1), None),
        (nemo("LlamaForSequenceClassification", 9), None),
        (nemotron, None),
        (json!({}), None),
    ] {
        let chosen = choose("auto", None, Path::new(""), &settings(config.clone()), &Tensors(&[])).unwrap();
        let name = chosen.as_ref().map(|chosen| &*chosen.preset.name);
        assert_eq!(name, expected, "{config}: {:?}", chosen.as_ref().map(|chosen| &chosen.why));
        assert_eq!(choose("none", Some("armorm"), Path::new(""), &settings(config), &Tensors(&[])).unwrap(), None);
    }
}

/// Models of one class that are read differently are told apart by their tensors, or the user is asked.
#[test]
fn what_several_models_share_is_no_sign() {
    let chosen = |architecture: &str, tensors| {
        let config = settings(json!({"architectures": [architecture], "model_type": "llama"}));
        choose("auto", None, Path::new(""), &config, &Tensors(tensors)).map(|chosen| chosen.map(|it| it.preset.name))
    };
    let known = |architecture, tensors| chosen(architecture, tensors).unwrap().unwrap();
    assert_eq!(known("LlamaRewardModel", &["regression_head.weight"]), "ultrarm");
    assert_eq!(known("LlamaRewardModel", &["value_head.weight"]), "ziya");
    assert_eq!(known("LlamaForSequenceClassification", &["v_head.weight"]), "starling-34b");
    assert_eq!(known("CustomAutoModelForSequenceClassification", &["v_head.weight"]), "athene");
    assert_eq!(known("Qwen2ForCausalLM", &["v_head.summary.weight"]), "value-head");
    assert_eq!(
        known("Gemma2Model", &["regression_layer.network.0.weight", "gating_layer.network.0.weight"]),
        "ldl-reward"
    );
    for (architecture, presets) in [
        ("InternLM2ForRewardModel", ["internlm2-reward", "polar"]),
        ("Qwen2ForRewardModel", ["qwen2.5-math-rm", "universal-prm"]),
        ("Qwen2ForTokenClassification", ["token-prm", "pure-prm"]),
    ] {
        let question = chosen(architecture, &[]).unwrap_err().to_string();
        assert!(presets.iter().all(|name| question.contains(&format!("--preset {name} ("))), "{question}");
    }
}

#[test]
fn what_was_asked_for_comes_before_what_was_found() {
    let armorm = || settings(json!({"architectures": ["LlamaForRewardModelWithGating"], "num_objectives": 19}));
    let why = |wanted, manifest| {
        let chosen = choose(wanted, manifest, Path::new(""), &armorm(), &Tensors(&[])).unwrap().unwrap();
        (chosen.preset.name, chosen.why)
    };
    assert_eq!(why("inf-orm", Some("openrlhf")), ("inf-orm".into(), "asked for".into()));
    assert_eq!(why("auto", Some("openrlhf")), ("openrlhf".into(), "named by the manifest".into()));
    let reason = "known by architecture LlamaForRewardModelWithGating, no field num_quantiles, num_objectives = 19";
    assert_eq!(why("auto", None), ("armorm".into(), reason.into()));
    // Looking for signs is not reading: what nobody else reads is still refused.
    let gating = settings(json!({"architectures": ["X"], "gating_temperature": 3}));
    assert_eq!(choose("auto", None, Path::new(""), &gating, &Tensors(&[])).unwrap(), None);
    assert!(gating.refuse_unread().is_err());
}

#[test]
fn a_preset_that_is_not_there_says_which_are() {
    let message = Preset::find("nemotron", Path::new("")).unwrap_err().to_string();
    assert!(message.contains("\"nemotron\"") && message.contains("nemotron-4-340b-reward, "), "{message}");
    assert!(candidates("LlamaForCausalLM").contains(&"llama-3.1-nemotron-70b-reward".to_owned()));
}

#[test]
fn each_part_can_be_said_anew() {
    let reference = Preset::find("nemotron-4-340b-reward", Path::new("")).unwrap().0;
    let over = |text: &str| Preset::parse(text).unwrap().complete(Path::new("m.toml")).unwrap();
    let same = over("name = 'm'\npreset = 'nemotron-4-340b-reward'\n[weightings.mine]\nhelpfulness = 1.0\n");
    assert_eq!(same.name, "m");
    assert_eq!(same.weightings.len(), reference.weightings.len() + 1);
    assert_eq!((&same.default_weighting, &same.untrained), (&reference.default_weighting, &reference.untrained));
    assert_eq!((&same.head, &same.read, same.bos), (&reference.head, &reference.read, Some(Bos::Never)));
    assert_eq!(same.chat_template, reference.chat_template);
    // Other attributes make the weightings of the old ones meaningless.
    let renamed = over("name = 'm'\npreset = 'nemotron-4-340b-reward'\nattributes = ['x']\nchat_template = 'T'\n");
    assert!(renamed.weightings.is_empty() && renamed.default_weighting.is_none() && renamed.untrained.is_empty());
    assert_eq!(renamed.chat_template.as_deref(), Some("T"));
    // Options stay with their kind.
    let head = |text: &str| over(&format!("name = 'm'\npreset = 'qwen2.5-math-prm'\n[head]\n{text}")).head.spec();
    assert_eq!(head("").options["positive"].as_integer(), Some(1));
    assert_eq!(head("tensor = 'other'").options.len(), 2);
    assert_eq!(head("kind = 'mlp'\npositive = 0").options["positive"].as_integer(), Some(0));
    assert!(head("kind = 'linear'").options.is_empty());
}

#[test]
fn what_is_wrong_is_named() {
    assert!(refused(&format!("{SMALL}laysers = 3\n")).contains("laysers"));
    assert!(refused(&format!("{SMALL}[base]\nlaysers = 3\n")).contains("laysers"));
    assert!(refused(&format!("{SMALL}[read]\nat = 'mean'\n")).contains("mean"));
    assert!(refused("attributes = ['a']").contains("name is \"\""));
    assert!(refused(&format!("{SMALL}[weightings.w]\nc = 1.0\n")).contains("\"c\"; the attributes are a, b"));
    assert!(refused(&format!("{SMALL}[weightings.w]\na = nan\n")).contains("finite"));
    assert!(refused(&format!("default_weighting = 'w'\n{SMALL}")).contains("[weightings.w]"));
    assert!(refused(&SMALL.replace("'b'", "'a'")).contains("unique"));
    assert!(refused(&format!("untrained = ['c']\n{SMALL}")).contains("untrained names \"c\"; the attributes are a, b"));
    assert!(refused(&format!("untrained = ['a', 'b']\n{SMALL}")).contains("every attribute"));
    assert!(refused(&format!("{SMALL}[[detect]]\n")).contains("every model"));
    assert!(refused(&format!("{SMALL}[adapter]\nfile = 'x'\n")).contains("either path, or file and scale"));
    assert!(refused(&format!("{SMALL}[base]\nlayers = 0\n")).contains("base.layers is 0"));
    let dtype = Preset::parse(&format!("{SMALL}[base]\npath = 'x'\n")).unwrap().base.unwrap().dtype;
    assert_eq!(dtype, Rounding::F32);
}

#[test]
fn presets_that_build_on_one_another_end_somewhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("round.toml");
    let find = |path: &Path| Preset::find(path.to_str().unwrap(), Path::new(""));
    std::fs::write(&path, format!("name = 'round'\npreset = '{}'\n", path.display())).unwrap();
    let message = find(&path).unwrap().0.complete(&path).unwrap_err().to_string();
    assert!(message.contains("round.toml") && message.contains("build on one another"), "{message}");
    std::fs::write(&path, "name = 'x'\n[base]\npath = 'y'\n").unwrap();
    assert!(find(&path).unwrap_err().to_string().contains("[base] is for a reward-model.toml"));
}

#[test]
fn a_package_is_a_plain_word() {
    let pip = |package: &str, file: &str| {
        let sum = "0".repeat(64);
        refused(&format!(
            "{SMALL}[base.pip]\npackage = '{package}'\nversion = '1'\nfile = '{file}'\nwheel_sha256 = '{sum}'\n\
             sha256 = '{sum}x'\n"
        ))
    };
    assert!(pip("--index-url=x", "f").contains("base.pip.package"));
    assert!(pip("p", "f").contains("base.pip.sha256"));
}

/// Whatever folder the program runs in.
#[test]
fn a_file_names_others_relative_to_itself() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    std::fs::create_dir(folder.path().join("below")).unwrap();
    write("below/first.toml", "name = 'first'\npreset = 'second.toml'\n");
    write("below/second.toml", "name = 'second'\nchat_template = 'T'\n");
    let chosen =
        choose("auto", Some("below/first.toml"), folder.path(), &settings(json!({})), &Tensors(&[])).unwrap().unwrap();
    assert_eq!((&*chosen.preset.name, chosen.preset.chat_template.as_deref()), ("first", Some("T")));
    // What the command line names is relative to where it was typed.
    assert!(choose("below/first.toml", None, folder.path(), &settings(json!({})), &Tensors(&[])).is_err());
    let typed = folder.path().join("below/first.toml");
    assert!(choose(typed.to_str().unwrap(), None, Path::new(""), &settings(json!({})), &Tensors(&[])).is_ok());
}

#[test]
fn names_of_many_attributes_are_checked_in_no_time_and_limited() {
    let names = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>();
    assert_eq!(check_names(&names(MAX_ATTRIBUTES)), Ok(()));
    assert!(check_names(&names(MAX_ATTRIBUTES + 1)).unwrap_err().contains("at most 4096"));
}
