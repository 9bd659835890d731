use std::time::Instant;

use serde::Serialize;

use super::*;
use crate::rollout::Message;

/// A message as transformers gives it.
#[derive(Serialize)]
struct Shown<'a> {
    role: &'a str,
    content: &'a str,
}

#[derive(Serialize)]
struct Variables<'a> {
    messages: Vec<Shown<'a>>,
    tools: (),
    documents: (),
    add_generation_prompt: bool,
}

fn template(source: &str) -> Template {
    Template::new(source, &BTreeMap::from([("bos_token".into(), "<s>".into())]), None).unwrap()
}

fn written(template: &Template, messages: &[Message], add_generation_prompt: bool) -> Result<String, Rejection> {
    let messages = messages.iter().map(|m| Shown { role: &m.role, content: &m.content }).collect();
    template
        .render(&Variables { messages, tools: (), documents: (), add_generation_prompt })
        .map(|written| written.text)
}

fn render(source: &str, messages: &[Message]) -> Result<String, Rejection> {
    written(&template(source), messages, false)
}

/// What transformers 5.23 makes of it.
#[test]
fn json_is_pythons_json() {
    let source = "{{ messages[0]|tojson }}{{ [1, none, 2.5]|tojson(indent=2) }}{% if tools is defined %}!{% endif %}";
    // That a turn is to be scored is nothing for the template.
    let message = Message { score: true, ..Message::new("user", "<b> 'é'\n") };
    let rendered = render(source, &[message]).unwrap();
    assert_eq!(rendered, "{\"role\": \"user\", \"content\": \"<b> 'é'\\n\"}[\n  1,\n  null,\n  2.5\n]!");
}

#[test]
fn what_a_template_refuses_is_a_rejection_with_its_line() {
    let strict =
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}";
    let rejection = render(strict, &[Message::new("system", "be brief")]).unwrap_err();
    assert_eq!(rejection.code, Code::BadMessages);
    assert!(rejection.message.ends_with("refused the messages: System role not supported"), "{rejection}");
    let source = "a\n{% macro f(m) %}\n{{ m.a.b }}\n{% endmacro %}\n{{ f(messages[0]) }}";
    let rejection = render(source, &[Message::new("user", "x")]).unwrap_err();
    assert!(rejection.message.contains("refused the messages: line 3: "), "{rejection}");
}

#[test]
fn what_cannot_be_had_is_refused_at_the_load_with_its_line_and_name() {
    for (source, what) in [
        ("{{ x|random }}", "'random'"),
        ("{{ x|map('pprint')|list }}", "'pprint'"),
        ("{{ x|urlize }}", "'urlize'"),
        ("{{ lipsum() }}", "lipsum"),
        ("{% block a %}{% endblock %}", "block"),
        ("{% include 'a' %}", "include"),
        ("{% autoescape true %}{% endautoescape %}", "autoescape"),
        ("{% do x %}", "'do'"),
        ("{{ x.encode() }}", "'encode'"),
        ("{{ x|nothing }}", "'nothing'"),
        ("{{ x is nothing }}", "'nothing'"),
        ("{{ '\\N{DASH}' }}", "\\N"),
        ("{{ 1 + }}", "end of print statement"),
        ("{% if x %}", "endif"),
        ("{% break %}", "break"),
        ("{% for loop in x %}{% endfor %}", "'loop'"),
        ("{{ strftime_now('%Y') }}", "--template-date YYYY-MM-DD"),
    ] {
        let error = Template::new(&format!("a\n{source}"), &BTreeMap::new(), None).err().unwrap_or_default();
        assert!(error.contains("line 2: ") && error.contains(what), "{source}: {error}");
    }
}

#[test]
fn the_day_is_asked_for_first_or_set() {
    let unguarded = "{{ strftime_now('%d %b %Y') }}";
    let date = Date::parse("2024-07-06");
    let dated = Template::new(unguarded, &BTreeMap::new(), date).unwrap();
    assert_eq!(written(&dated, &[], false).unwrap(), "06 Jul 2024");
    for guarded in [
        "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}no day{% endif %}",
        "{% if strftime_now is not defined %}no day{% else %}{{ strftime_now('%Y') }}{% endif %}",
        "{{ strftime_now('%Y') if strftime_now is defined else 'no day' }}",
        "{{ strftime_now is defined and strftime_now('%Y') or 'no day' }}",
        "{% if a %}{% elif strftime_now is undefined or a %}no day{% else %}{{ strftime_now('%Y') }}{% endif %}",
    ] {
        assert_eq!(render(guarded, &[]).unwrap(), "no day", "{guarded}");
    }
    for wrong in [
        "{% if strftime_now is defined or a %}{{ strftime_now('%Y') }}{% endif %}",
        "{% if strftime_now is defined %}{% endif %}{{ strftime_now('%Y') }}",
    ] {
        assert!(Template::new(wrong, &BTreeMap::new(), None).is_err(), "{wrong}");
    }
}

#[test]
fn as_many_messages_as_there_may_be_are_rendered() {
    let source = "{{ bos_token }}{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'].strip() }}{% endfor %}";
    let messages = vec![Message::new("user", " x "); crate::limits::MAX_MESSAGES];
    assert_eq!(render(source, &messages).unwrap(), format!("<s>{}", "<user>x".repeat(messages.len())));
}

/// A text from a completion, for a variable `c` beside an ordinary `p`.
#[derive(Serialize)]
struct Marked<'a> {
    c: Mark<'a>,
    p: &'a str,
    m: Mark2<'a>,
}

struct Mark<'a>(&'a str);

impl Serialize for Mark<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(COMPLETION, self.0)
    }
}

/// A whole message of a completion.
struct Mark2<'a>(Shown<'a>);

impl Serialize for Mark2<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(COMPLETION, &self.0)
    }
}

/// The written text with each part of the completion in brackets.
fn marked(source: &str) -> String {
    let variables = Marked {
        c: Mark(" héllo <think>a</think> b "),
        p: "pp",
        m: Mark2(Shown { role: "assistant", content: "said" }),
    };
    let Written { text, completion } = template(source).render(&variables).unwrap();
    let mut shown = String::new();
    let mut at = 0;
    for Range { start, end } in completion.ranges {
        assert!(start >= at && end > start, "{source}");
        shown.push_str(&format!("{}[{}]", &text[at..start], &text[start..end]));
        at = end;
    }
    shown + &text[at..]
}

#[test]
fn what_comes_from_the_completion_is_known() {
    for (source, expected) in [
        ("{{ p }}{{ c }}{{ p }}", "pp[ héllo <think>a</think> b ]pp"),
        ("{{ p }}", "pp"),
        ("{{ p ~ c.strip() ~ p }}", "pp[héllo <think>a</think> b]pp"),
        ("{{ p + c[1:6] + p }}|{{ c[2] }}|{{ c[::-1][:3] }}", "pp[héllo]pp|[é]|[ b ]"),
        ("{{ c.split('</think>')[-1].lstrip() }}!", "[b ]!"),
        ("{{ c.split() }}", "[['héllo', '<think>a</think>', 'b']]"),
        ("{{ c.split()|join(p) }}", "[héllo]pp[<think>a</think>]pp[b]"),
        ("{{ c|trim|replace('<think>a</think>', p) }}", "[héllo ]pp[ b]"),
        ("{{ p.replace('p', c|trim, 1) }}", "[héllo <think>a</think> b]p"),
        ("{{ c.partition('<think>')[0] }}{{ c.partition('<think>')[2] }}", "[ héllo a</think> b ]"),
        ("{% for x in c.strip()[:2] %}{{ x }}-{% endfor %}", "[h]-[é]-"),
        ("{{ '%s: %s' % (p, c|trim) }}", "pp: [héllo <think>a</think> b]"),
        ("{{ '{}: {}'.format(p, c.strip()[:2]) }}", "pp: [hé]"),
        ("{{ (p ~ c.strip()[:2] ~ p)|upper }}", "[PPHÉPP]"),
        ("{{ {'a': p, 'b': c.strip()[:1]}|tojson }}!", "[{\"a\": \"pp\", \"b\": \"h\"}]!"),
        ("{{ [p, c.strip()[:1]] }}!", "[['pp', 'h']]!"),
        ("{{ c.strip()[:2] * 2 ~ p }}", "[héhé]pp"),
        ("{{ c.strip()[:2]|indent(2, true) }}!", "  [hé]!"),
        ("{{ c.strip()[:2].center(6) }}|", "  [hé]  |"),
        ("{{ m.role }}: {{ m.content }}.", "[assistant]: [said]."),
        (
            "{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(m.content) }}{% set y %}{{ m.content }}!{% endset %}{{ y }}",
            "<[said]>[said]!",
        ),
        ("{{ c|length }}{{ 'h' in c }}{{ p if c == c else c }}", "26Truepp"),
        ("{{ c|wordwrap(8)|trim }}", "[héllo <]\n[think>a<]\n[/think>]\n[b]"),
    ] {
        assert_eq!(marked(source), expected, "{source}");
    }
}

/// Each ends as a rejection, or a refusal, in little time; on a stack as small as those of tokenizer threads.
#[test]
fn a_hostile_template_ends() {
    let deep = |before: &str, again: &str, behind: &str| format!("{before}{}{behind}", again.repeat(100_000));
    let sources = [
        "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}".into(),
        "{% set ns = namespace(x=[]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}".into(),
        "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% endfor %}".into(),
        "{% set ns = namespace(g=[1]) %}{% for i in range(90000) %}{% set ns.g = ns.g|map('string') %}{% endfor %}".into(),
        "{% set ns = namespace() %}{% set ns.a = ns %}{% set ns.b = [ns] %}{{ ns }}".into(),
        "{% macro f(a) %}{% if a %}{% for x in [a] %}{{ [f(x)] }}{% endfor %}{% endif %}{% endmacro %}{{ f(1) }}".into(),
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".into(),
        "{% for i in range(10**9) %}{% endfor %}".into(),
        "{% for a in range(100000) %}{% for b in range(100000) %}{% if a < 0 %}!{% endif %}{% endfor %}{% endfor %}".into(),
        "{{ 'x' * 10**9 }}".into(),
        "{{ [1] * 10**9 }}".into(),
        "{{ 10**10**10 }}".into(),
        "{{ 'x'|center(10**12) }}{{ '%1000000000d' % 1 }}".into(),
        "{% set x = 'a\n' * 3000000 %}{{ x|indent(100) }}".into(),
        "{% set x = 'a ' * 9000000 %}{{ x|wordwrap(1) }}{{ x|wordwrap(1) }}".into(),
        "{% set x = 'a' * 1000000 %}{{ x|replace('a', x) }}".into(),
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x|replace('a', 'aa') %}{% endfor %}".into(),
        "{% set x = 'a' * 1000000 %}{% for i in range(90000) %}{% set y = x|replace('b', 'a') %}{% endfor %}".into(),
        deep("{{ ", "(", "1"),
        deep("{{ ", "not ", "1 }}"),
        deep("{{ ", "-", "1 }}"),
        deep("{{ a", ".b", " }}"),
        deep("{{ a", "|string", " }}"),
        deep("{{ 1", " + 1", " }}"),
        deep("{{ 1", " if 1 else 1", " }}"),
        deep("", "{% if a %}", ""),
        deep("{% set ", "(", ""),
        deep("{{ ", "[[],", ""),
    ];
    let ends = move || {
        for source in sources {
            let start = Instant::now();
            let ended = match Template::new(&source, &BTreeMap::new(), None) {
                Ok(template) => written(&template, &[], false).map_err(|rejection| rejection.message),
                Err(refused) => Err(refused),
            };
            let shown = crate::reward::shortened(&source, 80);
            assert!(ended.is_err(), "{shown}");
            println!("{:?} {shown}: {}", start.elapsed(), ended.unwrap_err());
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(ends).unwrap().join().unwrap();
}

/// A completion in as many places as characters: a look at all of them for each is 10^10 comparisons.
#[test]
fn a_completion_in_many_places_is_written_in_little_time() {
    const LENGTH: usize = 100_000;
    let completion = "a".repeat(LENGTH);
    let variables = Marked { c: Mark(&completion), p: "", m: Mark2(Shown { role: "assistant", content: "" }) };
    for (source, between) in [
        ("{{ c.replace('', '<').replace('<', '>') }}", 1),
        ("{% for x in c.replace('', '<') %}{{ x }}{% endfor %}", 1),
        ("{{ c.replace('', '<')[::-1] }}", 1),
        ("{{ c.replace('', '<')|e }}", 4),
    ] {
        let Written { text, completion } = template(source).render(&variables).unwrap();
        assert_eq!(text.len(), LENGTH + (LENGTH + 1) * between, "{source}");
        assert_eq!(completion.ranges.len(), LENGTH, "{source}");
        assert!(completion.ranges.iter().all(|range| &text[range.clone()] == "a"), "{source}");
    }
}

/// The most that is allowed fits the stack of a tokenizer thread, in any build.
#[test]
fn the_deepest_template_fits_the_stack() {
    let nested = |depth: usize| format!("{}x{}", "{% if 1 %}".repeat(depth), "{% endif %}".repeat(depth));
    let brackets = |depth: usize| format!("{{{{ {}1{} }}}}", "[".repeat(depth), "]".repeat(depth));
    let lists = "{% set ns = namespace(x=1) %}{% for i in range(127) %}{% set ns.x = [ns.x] %}{% endfor %}\
                 {{ ns.x == ns.x ~ '' }}{{ ns.x|tojson|length }}";
    let ends = move || {
        assert_eq!(render(&nested(49), &[]).unwrap(), "x");
        assert!(Template::new(&nested(50), &BTreeMap::new(), None).is_err());
        assert_eq!(render(&brackets(69), &[]).unwrap().len(), 139);
        assert_eq!(render(lists, &[]).unwrap(), "False255");
        let inside = format!(
            "{}{{{{ {}f(n - 1) if n > 0 else 'x'{} }}}}{}",
            "{% if 1 %}".repeat(40),
            "(".repeat(60),
            ")".repeat(60),
            "{% endif %}".repeat(40)
        );
        let recursive = format!("{{% macro f(n) %}}{inside}{{% endmacro %}}{{{{ f(6) }}}}");
        assert!(render(&recursive, &[]).unwrap().ends_with('x'));
        let rejection = render(&recursive.replace("f(6)", "f(100)"), &[]).unwrap_err();
        assert!(rejection.message.contains("nested deeper"), "{rejection}");
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(ends).unwrap().join().unwrap();
}

/// Many renderings at a time share nothing but the tree.
#[test]
fn a_template_serves_all_threads() {
    let template =
        template("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{% endfor %}");
    std::thread::scope(|scope| {
        for count in 1..8 {
            let template = &template;
            scope.spawn(move || {
                let expected: String = (1..=count).map(|n: usize| n.to_string()).collect();
                assert_eq!(written(template, &vec![Message::new("user", "x"); count], false).unwrap(), expected);
            });
        }
    });
}

/// Templates of presets, which are TOML: that is read where there are models.
#[cfg(feature = "model")]
mod presets {
    use super::*;

    /// The template of a preset in the program.
    fn preset(text: &str) -> Template {
        let preset: toml::Table = text.parse().unwrap();
        Template::new(
            preset["chat_template"].as_str().unwrap(),
            &BTreeMap::from([("bos_token".into(), "<|begin_of_text|>".into())]),
            None,
        )
        .unwrap()
    }

    const SYSTEM: &str = "<extra_id_0>System\n\
        A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, \
        and polite answers to the user's questions.\n";

    /// The reference model's text, character for character as its card and `steerlm/common.py` have it.
    #[test]
    fn the_reference_template_is_the_published_one() {
        let template = preset(include_str!("../../../presets/nemotron-4-340b-reward.toml"));
        let (user, assistant) = (|text| Message::new("user", text), |text| Message::new("assistant", text));
        let one = [user("What is 1+1?"), assistant("Ooogo boogu shmugu loogu")];
        let expected = format!(
            "{SYSTEM}<extra_id_1>User\nWhat is 1+1?\n<extra_id_1>Assistant\nOoogo boogu shmugu loogu\n<extra_id_2>"
        );
        assert_eq!(written(&template, &one, false).unwrap(), expected);
        // A later turn is scored by all that comes before it, and nothing is trimmed.
        let two = [&one[..], &[user(" And\n2+2? "), assistant("")]].concat();
        let behind = "<extra_id_1>User\n And\n2+2? \n<extra_id_1>Assistant\n\n<extra_id_2>";
        let prompt = expected.strip_suffix("<extra_id_2>").unwrap();
        assert_eq!(written(&template, &two, false).unwrap(), format!("{prompt}{behind}"));
        // What the policy saw is the beginning of what is scored.
        let seen = written(&template, &one[..1], true).unwrap();
        assert!(expected.starts_with(&seen) && seen.ends_with("<extra_id_1>Assistant\n"), "{seen}");
        // The one system prompt may be said, and no other.
        let said = SYSTEM.trim_start_matches("<extra_id_0>System\n").trim_end();
        let with = |system: &str| written(&template, &[&[Message::new("system", system)], &one[..]].concat(), false);
        assert_eq!(with(said).unwrap(), expected);
        assert!(with("Be brief.").unwrap_err().message.contains("one system prompt"));
        assert!(written(&template, &[Message::new("tool", "4")], false).is_err());
    }

    /// Prompt and reference, then prompt and answer, as the README of InternLM/POLAR has them.
    #[test]
    fn a_reference_is_what_an_answer_is_compared_with() {
        let template = preset(include_str!("../../../presets/polar.toml"));
        let turns = [Message::new("user", "2+2?"), Message::new("assistant", "4.")];
        let reference = Message::new("reference", "four");
        let whole = [std::slice::from_ref(&reference), &turns[..]].concat();
        assert_eq!(written(&template, &whole, false).unwrap(), "2+2?\nfour<|reward|>2+2?\n4.");
        assert_eq!(written(&template, &whole[..2], true).unwrap(), "2+2?\nfour<|reward|>2+2?\n");
        let two = [vec![reference.clone(), reference], turns.to_vec()].concat();
        assert_eq!(written(&template, &two, false).unwrap(), "2+2?\nfour\nfour<|reward|>2+2?\n4.");
        let rejection = written(&template, &turns, false).unwrap_err();
        assert!(rejection.message.contains("send it as the rollout's reference"), "{rejection}");
        assert!(template.reads("reference") && !template.reads("found"));
    }

    /// Steps before the last were found right; the last is asked about.
    #[test]
    fn a_step_is_asked_about_behind_those_before_it() {
        let template = preset(include_str!("../../../presets/rlhflow-prm.toml"));
        let turns = ["user", "assistant", "assistant"].into_iter().zip(["2+2?", "two twos", "four"]);
        let turns: Vec<_> = turns.map(|(role, text)| Message::new(role, text)).collect();
        let asked = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n";
        let user = "<|start_header_id|>user<|end_header_id|>\n\n";
        let expected = format!("{user}2+2? two twos{asked}+<|eot_id|>{user}four{asked}");
        assert_eq!(written(&template, &turns, false).unwrap(), expected);
        assert!(written(&template, &turns[1..], false).is_err());
    }

    /// The example on the model card, with the date that Llama 3.3's template has where there is no clock.
    #[test]
    fn a_principle_is_asked_for_behind_the_response() {
        let template = preset(include_str!("../../../presets/llama-3.3-nemotron-70b-reward-principle.toml"));
        let principle = Message::new("principle", "correctness");
        let turns = [Message::new("user", "What is 1+1?"), Message::new("assistant", " 1+1=2\n")];
        let expected = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December \
            2023\nToday Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhat is 1+1?<|eot_id|>\
            <|start_header_id|>assistant<|end_header_id|>\n\n1+1=2<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n\
            Evaluate the response to the previous prompt in terms of whether it satisfies this principle: correctness. \
            Only answer Yes or No.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n";
        let rendered = written(&template, &[std::slice::from_ref(&principle), &turns[..]].concat(), false).unwrap();
        assert_eq!(rendered, expected);
        let system = [Message::new("system", "Be brief. "), principle.clone(), turns[0].clone()];
        let seen = written(&template, &system, true).unwrap();
        assert!(seen.contains("26 Jul 2024\n\nBe brief.<|eot_id|><|start_header_id|>user"), "{seen}");
        assert!(seen.ends_with("1+1?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"), "{seen}");
        for messages in [turns.to_vec(), [vec![principle.clone(), principle], turns.to_vec()].concat()] {
            assert!(written(&template, &messages, false).unwrap_err().message.contains("exactly one message"));
        }
    }
}
