//! Several adapters on one base, each a model of its own: PEFT's scores, and the bits that each gives alone.

use super::*;

fn base_of(folder: &Path) -> PathBuf {
    let text = fs::read_to_string(folder.join("adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    peft().join(config["base_model_name_or_path"].as_str().unwrap().trim_start_matches("../"))
}

fn named(name: &str, folder: &Path) -> NamedAdapter {
    NamedAdapter { name: name.into(), folder: Some(folder.to_owned()) }
}

/// These adapters on one base, each a model of its own.
fn together(folders: &[PathBuf], changes: Config) -> Vec<ModelEngine> {
    let name = |folder: &PathBuf| folder.file_name().unwrap().to_string_lossy().into_owned();
    let adapters = folders.iter().map(|folder| named(&name(folder), folder)).collect();
    let config = Config { adapters, prefix_cache: CacheSize::Bytes(4 << 20), ..changes };
    ModelEngine::load_adapters(&config).unwrap()
}

/// All kinds of adapters on their two bases: each gives the scores of PEFT, and the bits that it gives alone, in every order of
/// passes, with kept prefixes and without, packed or not, on one thread or several, at every degree.
#[test]
fn adapters_on_one_base_give_the_scores_of_peft_and_the_bits_of_each_alone() {
    for base in ["base/llama", "base/qwen2"] {
        let folders: Vec<PathBuf> = adapters().into_iter().filter(|folder| base_of(folder).ends_with(base)).collect();
        assert!(folders.len() > 5, "{base}");
        let references: Vec<Reference> = folders.iter().map(|folder| reference(folder)).collect();
        let base = peft().join(base);
        let mut engines = together(&folders, config(&base, 1));
        let mut first = Vec::new();
        for ((engine, reference), folder) in engines.iter_mut().zip(&references).zip(&folders) {
            let table = score(engine, reference);
            compare(&folder.display().to_string(), &table, reference);
            first.push(bits(&table));
        }
        for (i, (engine, reference)) in engines.iter_mut().zip(&references).enumerate().rev() {
            let folder = folders[i].display();
            let again = score(engine, reference);
            assert!(again.reused() > 0, "{folder}: its prefixes are kept");
            assert_eq!(bits(&again), first[i], "{folder}, again");
            let alone = |threads| Config { threads, ..config(&base, 1) };
            for threads in [1, 3] {
                let mut alone = together(&folders[i..=i], alone(threads)).remove(0);
                assert_eq!(bits(&score(&mut alone, reference)), first[i], "{folder}, alone on {threads} threads");
                let apart = reference.cases.iter().flat_map(|case| {
                    let rollout = read(&alone, &case.input_ids);
                    bits(&alone.score(&MicroBatch::pack(&[&rollout[..]], true)).unwrap())
                });
                assert_eq!(apart.collect::<Vec<_>>(), first[i], "{folder}, one rollout at a time");
            }
        }
        for tp in [2, 4] {
            for (i, engine) in together(&folders, config(&base, tp)).iter_mut().enumerate() {
                assert_eq!(bits(&score(engine, &references[i])), first[i], "{}, tp {tp}", folders[i].display());
            }
        }
    }
}

/// Passes of models on the same threads, from threads that know nothing of each other.
#[test]
fn passes_of_several_models_at_once_give_the_bits_of_each() {
    let folders = [peft().join("dora"), peft().join("grown")];
    let references = folders.each_ref().map(|folder| reference(folder));
    for tp in [1, 2] {
        let mut engines = together(&folders, config(&base_of(&folders[0]), tp));
        let first: Vec<_> = engines.iter_mut().zip(&references).map(|(e, r)| bits(&score(e, r))).collect();
        std::thread::scope(|scope| {
            for ((engine, reference), first) in engines.iter_mut().zip(&references).zip(&first) {
                scope.spawn(move || {
                    for _ in 0..10 {
                        engine.forget();
                        assert_eq!(bits(&score(engine, reference)), *first, "tp {tp}");
                    }
                });
            }
        });
    }
}

/// Of two models that differ in their heads alone, one finds kept what the other has computed; one that changes keys and values
/// does not.
#[test]
fn prefixes_are_shared_where_only_the_head_differs() {
    let copy = tempfile::tempdir_in(peft()).unwrap();
    let head = copy.path().join("head");
    fs::create_dir(&head).unwrap();
    let config_of_head = serde_json::json!({"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 4, "lora_alpha": 4});
    fs::write(head.join("adapter_config.json"), config_of_head.to_string()).unwrap();
    let hidden = 24;
    let values: Vec<u8> = (0..hidden).flat_map(|i| (i as f32 / 12.0).to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1, hidden], &values).unwrap();
    let tensors = [("base_model.model.score.weight", view)];
    safetensors::serialize_to_file(tensors, None, &head.join("adapter_model.safetensors")).unwrap();
    let base = base_of(&peft().join("seq-cls-2023"));
    let second = named("second", &head);
    let adapters = vec![named("first", &head), second, named("other", &peft().join("seq-cls-2023"))];
    let cached = Config { adapters, prefix_cache: CacheSize::Bytes(4 << 20), ..config(&base, 1) };
    let mut engines = ModelEngine::load_adapters(&cached).unwrap();
    let reference = reference(&peft().join("seq-cls-2023"));
    let mut reused = || engines.iter_mut().map(|engine| score(engine, &reference).reused()).collect::<Vec<_>>();
    let (once, twice) = (reused(), reused());
    assert_eq!((once[0], once[2]), (0, 0));
    assert!(once[1] > 0 && twice.iter().all(|reused| *reused > 0), "{once:?} {twice:?}");
}

/// The base itself is one of the models where it is asked for, without an adapter that the model brings.
#[test]
fn the_base_is_a_model_beside_its_adapters() {
    let folder = peft().join("lora-bias");
    let base = base_of(&folder);
    let plain = NamedAdapter { name: "plain".into(), folder: None };
    let config = |model: &Path| Config { adapters: vec![named("a", &folder), plain.clone()], ..config(model, 1) };
    let reference = reference(&folder);
    let scored = |model: &Path| {
        let mut engines = ModelEngine::load_adapters(&config(model)).unwrap();
        engines.iter_mut().map(|engine| bits(&score(engine, &reference))).collect::<Vec<_>>()
    };
    let beside = scored(&base);
    assert_eq!(beside[1], bits(&score(&mut load(&self::config(&base, 1)), &reference)));
    assert_ne!(beside[0], beside[1]);
    assert_eq!(scored(&peft().join("bias-all")), beside, "an adapter on the same base, which is left out");
}

/// Who loads one model of several does not get another one.
#[test]
fn several_adapters_are_no_single_model() {
    let adapter = |name: &str| named(name, &peft().join(name));
    let base = base_of(&peft().join("dora"));
    let config = |adapters| Config { adapters, ..config(&base, 1) };
    let message = ModelEngine::load(&config(vec![adapter("dora"), adapter("grown")])).err().unwrap().to_string();
    assert!(message.contains("dora, grown are several models"), "{message}");
    assert!(load(&config(vec![adapter("dora")])).card().model_version.starts_with("dora@"));
}

/// Each has a version of its own, which is not that of the adapter merged: its numbers are rounded otherwise.
#[test]
fn each_adapter_is_a_model_of_its_own_name_and_version() {
    let folders = [peft().join("dora"), peft().join("grown")];
    let engines = together(&folders, config(&base_of(&folders[0]), 1));
    let mut versions: Vec<String> = engines.iter().map(|engine| engine.card().model_version.to_string()).collect();
    assert!(versions[0].starts_with("dora@") && versions[1].starts_with("grown@"), "{versions:?}");
    versions.extend(folders.iter().map(|folder| load(&config(folder, 1)).card().model_version.to_string()));
    let distinct: std::collections::BTreeSet<_> = versions.iter().collect();
    assert_eq!(distinct.len(), 4, "{versions:?}");
}

/// Each weight type of the base, with float32 in what is added to it.
#[test]
fn every_type_of_weights_has_one_answer_at_every_degree_and_packing() {
    let folders = [peft().join("dora"), peft().join("rslora-patterns")];
    let references = folders.each_ref().map(|folder| reference(folder));
    let base = base_of(&folders[0]);
    for dtype in ["bf16", "int16", "int8"] {
        let dtype: Dtype = dtype.parse().unwrap();
        let scored = |tp, threads| {
            let mut engines = together(&folders, Config { dtype, threads, ..config(&base, tp) });
            engines.iter_mut().zip(&references).map(|(e, r)| bits(&score(e, r))).collect::<Vec<_>>()
        };
        let first = scored(1, 1);
        assert_eq!(scored(1, 3), first, "{dtype}");
        if dtype.to_string() == "bf16" {
            assert_eq!(scored(2, 2), first, "{dtype}: integers alone are rounded by rank");
        }
    }
}

/// Names that tell no models apart, and adapters that do not belong to the base, by the name of what does not fit.
#[test]
fn what_cannot_be_loaded_beside_each_other_is_refused() {
    let dora = peft().join("dora");
    let base = base_of(&dora);
    let adapter = |name: &str| named(name, &dora);
    let broken = tempfile::tempdir_in(peft()).unwrap();
    fs::copy(dora.join("adapter_model.safetensors"), broken.path().join("adapter_model.safetensors")).unwrap();
    let text = fs::read_to_string(dora.join("adapter_config.json")).unwrap();
    let mut rank: serde_json::Value = serde_json::from_str(&text).unwrap();
    rank["r"] = serde_json::json!(rank["r"].as_u64().unwrap() + 1);
    fs::write(broken.path().join("adapter_config.json"), rank.to_string()).unwrap();
    let wider = fixtures().join("hf/mistral-window");
    for (base, adapters, head, says) in [
        (&base, vec![adapter("a"), adapter("a")], None, "two are called \"a\""),
        (&base, vec![adapter("")], None, "needs a name"),
        (&base, vec![adapter("a")], Some("head.safetensors".into()), "--head"),
        (&base, vec![adapter("a"), named("b", &peft().join("nowhere"))], None, "nowhere"),
        (&base, vec![adapter("a"), named("b", broken.path())], None, "lora_A.weight"),
        (&base, vec![adapter("a"), named("b", &peft().join("bias-all"))], None, "proj.bias"),
        (&wider, vec![adapter("a")], None, "dora/adapter_model.safetensors"),
    ] {
        let config = Config { adapters, head, ..config(base, 1) };
        let message = ModelEngine::load_adapters(&config).err().unwrap().to_string();
        assert!(message.contains(says), "{says}: {message}");
    }
    let merged = Config { adapters: vec![adapter("a")], adapter: Some(dora.clone()), ..config(&base, 1) };
    assert!(ModelEngine::load_adapters(&merged).err().unwrap().to_string().contains("NAME=DIR"));
}

/// Served together, under a load that is mixed rollout by rollout: each reward has the bits that its model gives alone, and its
/// model's version.
#[tokio::test(flavor = "multi_thread")]
async fn a_mixed_load_gives_each_rollout_the_bits_of_its_own_model() {
    let folders: Vec<PathBuf> = adapters().into_iter().filter(|f| base_of(f).ends_with("base/qwen2")).collect();
    let names: Vec<String> = folders.iter().map(|f| f.file_name().unwrap().to_string_lossy().into_owned()).collect();
    let base = base_of(&folders[0]);
    let mut alone = together(&folders, config(&base, 1));
    let adapters = names.iter().zip(&folders).map(|(name, folder)| named(name, folder)).collect();
    let served = Config { adapters, prefix_cache: CacheSize::Bytes(1 << 20), ..config(&base, 1) };
    let engines = model::load_all(&served).unwrap();
    let settings = reward_sidecar::sidecar::Config { max_batch_rollouts: 3, ..common::loopback() };
    let sidecar = Sidecar::start_models(Listeners::bind(&settings).await.unwrap(), settings, engines).await.unwrap();
    let (send, mut replies) = common::open(&sidecar).await;
    let references: Vec<Reference> = folders.iter().map(|folder| reference(folder)).collect();
    let mut expected = std::collections::BTreeMap::new();
    for round in 0..3 {
        let most = references.iter().map(|reference| reference.cases.len()).max().unwrap();
        for case in 0..most {
            for (model, reference) in references.iter().enumerate().filter(|(_, r)| case < r.cases.len()) {
                let tokens = read(&alone[model], &reference.cases[case].input_ids);
                let id = format!("{round} {model} {case}");
                let table = alone[model].score(&MicroBatch::pack(&[&tokens[..]], true)).unwrap();
                expected.insert(id.clone(), (model, bits(&table).remove(0)));
                send.send(v1::Rollout { model: names[model].clone(), ..common::ids(id, &tokens) }).unwrap();
            }
        }
    }
    drop(send);
    while let Some(reply) = replies.message().await.unwrap() {
        let (model, bits) = expected.remove(&reply.id).unwrap();
        let rewards = common::rewards(&reply);
        assert_eq!(rewards.attributes.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), bits, "{}", reply.id);
        assert_eq!(*rewards.model_version, *alone[model].card().model_version);
    }
    assert!(expected.is_empty(), "{expected:?}");
    sidecar.drain().await.unwrap();
}

/// Random pairs of rank 3 for every matrix in the layers of a model, in PEFT's layout.
fn write_random_adapter(model: &Path, folder: &Path) {
    const RANK: usize = 3;
    let mut random = common::Random(0x5eed);
    let mut tensors = std::collections::BTreeMap::new();
    for file in fs::read_dir(model).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_none_or(|extension| extension != "safetensors") {
            continue;
        }
        let bytes = fs::read(file).unwrap();
        let mut all = safetensors::SafeTensors::deserialize(&bytes).unwrap().tensors();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (name, view) in all {
            let (Some(module), &[outputs, inputs]) = (name.strip_suffix(".weight"), view.shape()) else { continue };
            if !module.contains("layers.") {
                continue;
            }
            let mut pair = |part: &str, shape: [usize; 2], scale: f32| {
                let mut value = |_| scale * (random.below(2001) as f32 / 1000.0 - 1.0);
                let values: Vec<u8> = (0..shape[0] * shape[1]).flat_map(|i| f32::to_le_bytes(value(i))).collect();
                tensors.insert(format!("base_model.model.{module}.{part}.weight"), (shape.to_vec(), values));
            };
            pair("lora_A", [RANK, inputs], (inputs as f32).sqrt().recip());
            pair("lora_B", [outputs, RANK], 0.2);
        }
    }
    let views = tensors.iter().map(|(name, (shape, values))| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), values).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.join("adapter_model.safetensors")).unwrap();
    let config = serde_json::json!({"peft_type": "LORA", "r": RANK, "lora_alpha": RANK});
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
}

/// Every form of decoder, with an adapter on every matrix of its layers, experts and their routers included: not merged it
/// gives what it gives merged, but for rounding, and its own bits at two ranks and one rollout at a time.
#[test]
fn every_architecture_takes_adapters_that_are_not_merged() {
    let mut tried = std::collections::BTreeSet::new();
    let mut folders: Vec<_> = fs::read_dir(fixtures().join("hf")).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    for model in folders {
        let said: serde_json::Value = serde_json::from_slice(&fs::read(model.join("reference.json")).unwrap()).unwrap();
        if said.get("head").is_some_and(|head| !head.is_null()) {
            continue;
        }
        let name = model.display();
        let rollouts: Vec<Vec<u32>> = said["cases"]
            .as_array()
            .unwrap()
            .iter()
            .map(|case| serde_json::from_value(case["input_ids"].clone()).unwrap())
            .collect();
        let batch = MicroBatch::pack(&rollouts, true);
        let adapter = tempfile::tempdir().unwrap();
        write_random_adapter(&model, adapter.path());
        let config = |tp| Config { preset: "auto".into(), ..config(&model, tp) };
        let merged = Config { adapter: Some(adapter.path().into()), ..config(1) };
        let apart = |tp| load(&Config { adapters: vec![named("a", adapter.path())], ..config(tp) });
        let (mut engine, mut base) = (apart(1), load(&config(1)));
        let (scored, expected) = (engine.score(&batch).unwrap(), load(&merged).score(&batch).unwrap());
        let unchanged = base.score(&batch).unwrap();
        let mut changes = 0.0_f32;
        for row in 0..scored.rows() {
            let (row, expected, unchanged) = (scored.row(row), expected.row(row), unchanged.row(row));
            for ((score, expected), unchanged) in row.unwrap().iter().zip(expected.unwrap()).zip(unchanged.unwrap()) {
                // The promise of both to transformers; rounding in another order stays well inside.
                let difference = (score - expected).abs() / expected.abs().max(1.0);
                assert!(difference <= 1e-4, "{name}: {score}, merged {expected}");
                changes = changes.max((expected - unchanged).abs());
            }
        }
        assert!(changes > 1e-3, "{name}: the adapter changes something");
        for (rollout, together) in rollouts.iter().zip(bits(&scored)) {
            let alone = engine.score(&MicroBatch::pack(&[&rollout[..]], true)).unwrap();
            assert_eq!(bits(&alone)[0], together, "{name}, alone");
        }
        if engine.report().degrees.contains(&2) {
            assert_eq!(bits(&apart(2).score(&batch).unwrap()), bits(&scored), "{name}, tp 2");
        }
        tried.insert(engine.card().architecture.clone());
    }
    assert!(tried.len() >= 12 && tried.iter().any(|name| name.starts_with("Mixtral")), "{tried:?}");
}
