//! The reference model against figures worked out by hand from its published sizes: 96 layers of qkv 396.4 M, output
//! 339.7 M and feed-forward 2717.9 M, and an embedding of 4.72 B.

use std::path::Path;

use super::*;

const REFERENCE: &str = "nemotron-4-340b-reward";

fn request() -> Request {
    Request {
        model: REFERENCE.to_owned(),
        cache_dir: Path::new("/nonexistent").to_owned(),
        gpu: Gpu::find("h100").unwrap(),
        gpus: Some(16),
        tp: None,
        pp: 2,
        dtype: Dtype::Bf16,
        utilisation: 1.0,
        tokens: None,
        max_batch_tokens: 4096,
    }
}

/// As figures are written by hand: `digits` that count.
fn rounded(value: f64, digits: usize) -> String {
    format!("{value:.*e}", digits - 1)
}

#[test]
fn parameters_of_the_reference_model() {
    let plan = plan(&request()).unwrap();
    assert_eq!(plan.parameters.attention, 96 * (396_361_728 + 339_738_624));
    assert_eq!(plan.parameters.feed_forward, 96 * 2_717_908_992);
    assert_eq!(plan.parameters.embedding, 4_718_592_000);
    assert_eq!(rounded(plan.parameters_total as f64, 4), "3.363e11");
}

#[test]
fn bytes_of_the_reference_model() {
    let plan = plan(&request()).unwrap();
    let of = |tp, dtype| plan.ranks.iter().find(|rank| rank.tp == tp && rank.dtype == dtype).unwrap().weights;
    // All of it, by two bytes, in 16 equal parts: 42.0 GB. The first stage has the embedding besides, the other has not.
    assert_eq!(rounded(plan.parameters_total as f64 * 2.0, 4), "6.726e11");
    assert_eq!(rounded(plan.parameters_total as f64 * 2.0 / 16.0, 3), "4.20e10");
    let (first, rank) = (of(8, Dtype::Bf16), plan.deployment.rank.weights);
    assert_eq!((plan.deployment.tp, plan.deployment.pp, plan.deployment.replicas), (8, 2, 1));
    assert_eq!(first, rank);
    assert_eq!(rounded(first.total() as f64, 3), "4.26e10");
    assert!(plan.deployment.fit.fits);
    // Half of the layers' two norms of two vectors, for every rank.
    assert_eq!(first.replicated, 48 * 4 * 18_432 * 2);
    assert_eq!(of(8, Dtype::F32).total(), 2 * first.total());
    assert_eq!(of(8, Dtype::F16), first);
    // A quantised one keeps the embedding and norms as they are.
    let matrices = (48 * 3_454_009_344_u64) / 8;
    let kept = first.total() - 2 * matrices;
    assert_eq!(of(8, Dtype::Fp8).total(), matrices + kept);
    assert_eq!(of(8, Dtype::Int8), of(8, Dtype::Fp8));
    assert_eq!(of(8, Dtype::Int4).total(), matrices / 2 + matrices / 128 * 2 + kept);
    // Sixteen ranks share eight heads of keys and values by twos: 96 MB for each layer, twice a sixteenth.
    let keys_and_values = 48 * 2 * 192 * 18_432 * 2;
    assert_eq!(of(16, Dtype::Bf16).replicated, first.replicated + keys_and_values);
}

#[test]
fn operations_of_the_reference_model() {
    let plan = plan(&request()).unwrap();
    assert_eq!(rounded(plan.token.matrix_flops as f64, 3), "6.63e11");
    // By half of the length: 1.8, 3.6, 7.2 and 14.5 G. A token sees itself too, which is half a key more.
    let by_hand = [(512, "1.8e9"), (1024, "3.6e9"), (2048, "7.2e9"), (4096, "1.4e10")];
    assert_eq!(plan.attention.len(), by_hand.len());
    for (attention, (tokens, flops)) in plan.attention.iter().zip(by_hand) {
        assert_eq!(attention.tokens, tokens);
        assert_eq!(rounded(attention.flops * tokens as f64 / (tokens as f64 + 1.0), 2), flops);
    }
    assert_eq!(rounded(plan.attention[3].flops, 3), "1.45e10");
}

#[test]
fn traffic_of_the_reference_model() {
    let plan = plan(&request()).unwrap();
    assert_eq!(plan.token.all_reduce_bytes_per_layer, 2 * 36_864);
    assert_eq!(rounded(plan.token.all_reduce_bytes as f64, 3), "7.08e6");
    assert_eq!(plan.token.stage_hop_bytes, 36_864);
    assert_eq!(rounded(plan.token.kv_bytes as f64, 2), "5.9e5");
    assert_eq!(plan.deployment.ring_bytes_per_layer, 129_024.0);
    assert_eq!(rounded(plan.deployment.ring_bytes_per_stage, 2), "6.2e6");
    assert!(!plan.deployment.crosses_domains);
}

#[test]
fn rates_of_the_reference_model() {
    let rate = |request: Request| plan(&request).unwrap().deployment.rate;
    assert_eq!(rounded(rate(request()).matrices_at_peak, 3), "2.39e4");
    // Attention takes its share, and a utilisation of 40 % another: 9.5k tokens a second.
    let stated = rate(Request { utilisation: 0.4, tokens: Some(512), ..request() });
    let flops = 2.0 * 331_584_897_024.0 + 4.0 * 18_432.0 * 96.0 * 256.5;
    assert!((stated.expected / (0.4 * 16.0 * 989e12 / flops) - 1.0).abs() < 1e-12);
    assert_eq!(rounded(stated.expected, 2), "9.5e3");
    // Half as many GPUs of twice the rate.
    let fp8 = Request { gpus: Some(8), pp: 1, dtype: Dtype::Fp8, ..request() };
    assert_eq!(rounded(rate(fp8.clone()).matrices_at_peak, 3), "2.39e4");
    assert!(plan(&fp8).unwrap().deployment.fit.fits);
    // Sixteen ranks work out each of eight heads' keys and values twice.
    let sixteen = rate(Request { tp: Some(16), pp: 1, ..request() }).matrices_at_peak;
    let twice = 2.0 * (331_584_897_024.0 + 96.0 * 2.0 * 8.0 * 192.0 * 18_432.0);
    assert!((sixteen / (16.0 * 989e12 / twice) - 1.0).abs() < 1e-12, "{sixteen}");
    // Over PCIe the sums decide: 48 layers, and the embedding, on 32 GB a second.
    let pcie = rate(Request { gpu: Gpu::find("l40s").unwrap(), tp: Some(8), ..request() });
    let limit = 32e9 / (129_024.0 * 48.0 + 64_512.0);
    assert!((pcie.expected / limit - 1.0).abs() < 1e-12, "{pcie:?}");
}

#[test]
fn what_is_chosen_where_nothing_is_said() {
    let chosen = |request: Request| {
        let Deployment { tp, gpus, replicas, fit, .. } = plan(&request).unwrap().deployment;
        (tp, gpus, replicas, fit.fits)
    };
    // Sixteen ranks in one stage hold what eight hold in two.
    assert_eq!(chosen(Request { gpus: None, pp: 1, ..request() }), (16, 16, 1, true));
    assert_eq!(chosen(Request { gpus: Some(32), ..request() }), (8, 32, 2, true));
    // Nothing fits on four of them: the most that there is.
    assert_eq!(chosen(Request { gpus: Some(4), pp: 1, ..request() }), (4, 4, 1, false));
}

#[test]
fn what_cannot_be_says_what_can() {
    let refused = |request: Request| plan(&request).unwrap_err().to_string();
    let says = |message: String, part: &str| assert!(message.contains(part), "{message}");
    says(refused(Request { tp: Some(5), ..request() }), "possible: 1, 2, 4, 8, 16, 24, 32, 48, 96");
    says(refused(Request { pp: 5, ..request() }), "possible: 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 96");
    says(refused(Request { pp: 0, ..request() }), "possible: 1, 2");
    says(refused(Request { gpus: Some(12), tp: Some(8), ..request() }), "a multiple of 16");
    says(refused(Request { gpus: Some(7), ..request() }), "a multiple of 2");
    says(refused(Request { tokens: Some(4097), ..request() }), "from 1 to 4096");
    says(refused(Request { tokens: Some(0), ..request() }), "from 1 to 4096");
    says(refused(Request { model: "nemotron".into(), ..request() }), REFERENCE);
    says(Gpu::find("h1000").unwrap_err().to_string(), "b200, h200, h100");
    says("fp3".parse::<Dtype>().unwrap_err().to_string(), "f32, bf16, f16, fp8, int8, int4");
}

#[test]
fn sizes_beyond_any_machine_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 1 << 20, "intermediate_size": 1 << 22,
        "num_hidden_layers": 1 << 16, "num_attention_heads": 1 << 12, "head_dim": 1 << 12, "vocab_size": 1 << 24,
    });
    std::fs::write(&path, config.to_string()).unwrap();
    let model = path.to_str().unwrap().to_owned();
    let message = plan(&Request { model, ..request() }).unwrap_err().to_string();
    assert!(message.contains("config.json: field \"num_hidden_layers\" is 65536, expected at most 4096"), "{message}");
}

/// A small mixture by hand: 4 layers of hidden 34, with 8 query heads and 4 key heads of 10 features. The first layer is
/// dense, of 37 features; the others have 9 experts of 13 features, of which a token goes through 3, and a router.
#[test]
fn experts_are_held_by_all_ranks_and_computed_where_they_are_chosen() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/hf/qwen3-moe").to_owned();
    let plan = plan(&Request { model, gpus: None, pp: 1, ..request() }).unwrap();
    let attention = 4 * 34 * (8 * 10 + 2 * 4 * 10 + 8 * 10);
    let (dense, expert, router) = (3 * 34 * 37, 3 * 34 * 13, 9 * 34);
    assert_eq!(plan.parameters.attention, attention);
    assert_eq!(plan.parameters.feed_forward, dense + 3 * (9 * expert + router));
    assert_eq!(plan.token.matrix_flops, 2 * (attention + dense + 3 * (3 * expert + router)) as u64);
    assert_eq!(plan.degrees, [1, 2, 4, 8]);
}
