//! A plan for a person who has five minutes.

use std::fmt::Write as _;

use crate::model::plan::{Deployment, Dtype, GPUS, Plan};

/// The whole page.
pub fn of(plan: &Plan) -> String {
    let mut page = Page(String::new());
    model(plan, &mut page);
    token(plan, &mut page);
    deployment(plan, &mut page);
    ranks(plan, &mut page);
    gpus(plan, &mut page);
    notes(plan, &mut page);
    page.0
}

struct Page(String);

impl Page {
    fn line(&mut self, text: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{}", text.trim_end());
    }

    fn section(&mut self, title: &str) {
        self.line("");
        self.line(title);
    }

    fn field(&mut self, name: &str, value: &str) {
        self.line(&format!("  {name:<12} {value}"));
    }

    /// Columns of a table: the first ones to the left, one for each type to the right.
    fn row(&mut self, first: &str, cells: impl IntoIterator<Item = String>) {
        let cells: String = cells.into_iter().map(|cell| format!("{cell:>10}")).collect();
        self.line(&format!("  {first:<24}{cells}"));
    }
}

/// The value with so many digits and a decimal prefix, as `663 G`.
fn si(value: f64, digits: usize) -> String {
    let (scaled, prefix) = scaled(value, digits, ["", "k", "M", "G", "T"]);
    format!("{scaled} {prefix}")
}

/// Bytes: `7.08 MB`.
fn bytes(count: f64) -> String {
    si(count, 3) + "B"
}

/// Weights: `336.3 B`.
fn count(count: usize) -> String {
    let (scaled, prefix) = scaled(count as f64, 4, ["", "k", "M", "B", "T"]);
    format!("{scaled} {prefix}").trim_end().to_owned()
}

/// Tokens a second: `23.9k`.
fn rate(value: f64) -> String {
    let (scaled, prefix) = scaled(value, 3, ["", "k", "M", "G", "T"]);
    scaled + prefix
}

fn scaled(value: f64, digits: usize, prefixes: [&str; 5]) -> (String, &str) {
    let whole = value.fract() == 0.0 && value < 1000.0;
    let (mut value, mut prefix) = (value, 0);
    // What would be rounded to a thousand takes the next prefix.
    let rounded =
        |value: f64, below: f64| value < below - 0.5 * 10.0_f64.powi(libm::log10(below) as i32 - digits as i32);
    while !rounded(value, 1000.0) && prefix + 1 < prefixes.len() {
        value /= 1000.0;
        prefix += 1;
    }
    let before = [10.0, 100.0].iter().filter(|&&below| !rounded(value, below)).count() + 1;
    let decimals = if whole { 0 } else { digits.saturating_sub(before) };
    (format!("{value:.decimals$}"), prefixes[prefix])
}

fn model(plan: &Plan, page: &mut Page) {
    let (shape, parameters) = (&plan.shape, &plan.parameters);
    page.line(&format!("{} ({})", plan.model, plan.architecture));
    page.field(
        "sizes",
        &format!(
            "{} layers, hidden {}, feed-forward {}, {} heads ({} for keys and values) of {}",
            shape.layers, shape.hidden, shape.feed_forward, shape.heads, shape.kv_heads, shape.head_dim
        ),
    );
    page.field("vocabulary", &format!("{} ids, context {} tokens", shape.vocabulary, shape.context));
    page.field(
        "parameters",
        &format!("{} for scoring, without a head; an LM head is not loaded", count(plan.parameters_total)),
    );
    page.field(
        "",
        &format!(
            "feed-forward {}, attention {}, embedding {}, norms {}",
            count(parameters.feed_forward),
            count(parameters.attention),
            count(parameters.embedding),
            count(parameters.norms)
        ),
    );
}

fn token(plan: &Plan, page: &mut Page) {
    let token = &plan.token;
    page.section("Each token costs");
    page.field("matrices", &format!("{}FLOP", si(token.matrix_flops as f64, 3)));
    let at = |tokens: usize, flops: f64| format!("{}FLOP at {tokens}", si(flops, 3));
    let attention: Vec<_> = plan.attention.iter().map(|a| at(a.tokens, a.flops)).collect();
    page.field("attention", &format!("on average {} tokens", attention.join(", ")));
    page.field(
        "all-reduce",
        &format!(
            "{} in each layer, {} in all layers, {} for the embedding",
            bytes(token.all_reduce_bytes_per_layer as f64),
            bytes(token.all_reduce_bytes as f64),
            bytes(token.all_reduce_bytes_embedding as f64)
        ),
    );
    page.field("keys, values", &format!("{} if they are kept", bytes(token.kv_bytes as f64)));
}

fn deployment(plan: &Plan, page: &mut Page) {
    let on: &Deployment = &plan.deployment;
    let copies = if on.replicas == 1 { String::new() } else { format!(", {} copies", on.replicas) };
    page.section(&format!("On {} x {}: tp {}, pp {}, {}{copies}", on.gpus, on.gpu.title, on.tp, on.pp, on.rank.dtype));
    page.field(
        "weights",
        &format!(
            "{} on the rank that holds most: {} sharded, {} replicated",
            bytes(on.rank.weights.total() as f64),
            bytes(on.rank.weights.sharded as f64),
            bytes(on.rank.weights.replicated as f64)
        ),
    );
    page.field(
        "activations",
        &format!(
            "{} at most, for {} tokens in a micro-batch",
            bytes(on.rank.activation_bytes as f64),
            on.max_batch_tokens
        ),
    );
    page.field(
        "memory",
        &format!(
            "{} with {} of reserve, of {}: {}",
            bytes(on.fit.needed_bytes as f64),
            bytes(on.reserve_bytes as f64),
            bytes(on.fit.memory_bytes as f64),
            if on.fit.fits { "fits" } else { "does not fit" }
        ),
    );
    page.field(
        "tokens/s",
        &format!(
            "{} at {} % of the published peak, for rollouts of {} tokens",
            rate(on.rate.expected),
            (on.utilisation * 1000.0).round() / 10.0,
            on.tokens
        ),
    );
    page.field("", &format!("{} at 100 %, of the matrices alone", rate(on.rate.matrices_at_peak)));
    let Some(interconnect) = on.rate.interconnect else { return };
    page.field(
        "on the wire",
        &format!(
            "{} for each token, layer and GPU, {} in all of a stage's layers (a ring, each way)",
            bytes(on.ring_bytes_per_layer),
            bytes(on.ring_bytes_per_stage)
        ),
    );
    let limit = if interconnect < on.rate.computation { "which is the limit here" } else { "more than is computed" };
    page.field("", &format!("{} lets {} tokens/s through, {limit}", on.gpu.link, rate(interconnect)));
    if on.crosses_domains {
        let domain = on.gpu.domain;
        page.field("", &format!("more ranks than the {domain} GPUs of a server: the network between is not counted"));
    }
}

fn ranks(plan: &Plan, page: &mut Page) {
    let on = &plan.deployment;
    page.section(&format!("Weights of a rank at pp {}; * fits on {}", on.pp, on.gpu.title));
    page.row("tp", Dtype::ALL.map(|dtype| dtype.to_string() + " "));
    let here = |tp, dtype| plan.fits.iter().any(|f| f.gpu == on.gpu.name && f.tp == tp && f.dtype == dtype && f.fits);
    for tp in &plan.degrees {
        let cells = plan.ranks.iter().filter(|rank| rank.tp == *tp).map(|rank| {
            let mark = if here(*tp, rank.dtype) { "*" } else { " " };
            bytes(rank.weights.total() as f64) + mark
        });
        page.row(&tp.to_string(), cells);
    }
}

fn gpus(plan: &Plan, page: &mut Page) {
    page.section(&format!("Fewest tensor-parallel ranks that fit, at pp {}", plan.deployment.pp));
    page.row("", Dtype::ALL.map(|dtype| dtype.to_string()));
    for gpu in GPUS {
        let fewest = |dtype| plan.fits.iter().find(|f| f.gpu == gpu.name && f.dtype == dtype && f.fits);
        let cells = Dtype::ALL.map(|dtype| fewest(dtype).map_or_else(|| "-".to_owned(), |fit| fit.tp.to_string()));
        page.row(&format!("{:<11}{:>4} GB", gpu.name, gpu.memory_gb), cells);
    }
}

fn notes(plan: &Plan, page: &mut Page) {
    let computed: Vec<_> = plan.computed_dtypes.iter().map(|dtype| dtype.name()).collect();
    let computed = computed.join(" on CPUs and in ");
    page.section(&format!("The engine computes in {computed} on GPUs; the other types are arithmetic."));
    if !cfg!(feature = "cuda") {
        page.line(
            "This program was built without CUDA (--features cuda): it runs on CPUs, and nothing above on a GPU.",
        );
    }
    if !plan.pipeline_built {
        page.line("Pipeline stages (--pp) are arithmetic: they are not built.");
    }
    page.line("Quantised types store the layers' matrices so, and embedding, norms and biases in bf16.");
    page.line("Rates are published peaks times a utilisation, nothing was measured.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_rounded_to_their_digits() {
        let written = [0.0, 7.0, 131.25, 999.4, 999.6, 9.994e3, 9.996e3, 663.17e9].map(|value| si(value, 3));
        assert_eq!(written, ["0 ", "7 ", "131 ", "999 ", "1.00 k", "9.99 k", "10.0 k", "663 G"]);
        assert_eq!(count(336_310_598_656), "336.3 B");
        assert_eq!(count(44), "44");
        assert_eq!(rate(23_862.9), "23.9k");
    }
}
