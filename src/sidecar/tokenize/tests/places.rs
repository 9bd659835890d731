//! Tests of where a completion stands in what a template writes.

use super::*;

/// Templates that write a completion as it is, trimmed, behind white space of their own, or where it is not the last.
const WRITERS: [&str; 5] = [
    "{% for m in messages %}[{{ m.role }}] {{ m.content }} </s>{% endfor %}{{ '[assistant] ' if add_generation_prompt }}",
    "{% for m in messages %}[{{ m.role }}]\n\n{{ m.content | trim }} </s>{% endfor %}{{ '[assistant]\n\n' if add_generation_prompt }}",
    "{% for m in messages %}[{{ m.role }}]{{ m.content.lstrip('\n') }}  </s>{% endfor %}{{ '[assistant]' if add_generation_prompt }}",
    "{% for m in messages %}[{{ m.role }}]  {{ m.content.rstrip() }}</s>{% endfor %}{{ '[assistant]' if add_generation_prompt }}",
    // Nothing of it is what a policy sees.
    "a {{ messages[-1].content | trim }} four {% for m in messages[:-1] %}{{ m.content }}{% endfor %} four",
];

#[test]
fn a_completion_is_found_whatever_a_template_trims() {
    for template in WRITERS {
        let text = text(Some(template), false);
        for completion in
            ["four", " four", "four ", "\n four   ", "four   and\n\n", "</s", "4", "COMPLETION0", "a", "é "]
        {
            for prompt in ["two", "four ", "COMPLETION0 COMPLETION2"] {
                let rendered = render(&text, &[user(prompt)], completion, Locate::Whole).unwrap();
                let place = self::place(&rendered);
                let found = &rendered.text[place.clone()];
                assert_eq!(found.trim(), completion.trim(), "{template}");
                // It is the one between what stands around any completion.
                let other = render(&text, &[user(prompt)], "other", Locate::Whole).unwrap();
                let other_place = self::place(&other);
                assert_eq!(rendered.text[..place.start], other.text[..other_place.start], "{template}");
                assert_eq!(rendered.text[place.end..], other.text[other_place.end..], "{template}");
            }
        }
    }
}

/// Blanks that a template takes off are not counted, and no token of the template's is counted in their place.
#[test]
fn blanks_that_a_template_trims_count_for_nothing() {
    let text = text(Some(CHATML), false);
    let counted = |completion: &str| {
        let rendered = render(&text, &[user("two")], completion, Locate::Whole).unwrap();
        encode_part(&text, &rendered.text, place(&rendered), Form::Chat).1.len()
    };
    for completion in
        ["four and", "four and   ", &format!("four and{}", " ".repeat(40)), "  four and", "\n\nfour and \n"]
    {
        assert_eq!(counted(completion), 2, "{completion:?}");
    }
    for blank in ["", " ", &" ".repeat(40)] {
        assert_eq!(counted(blank), 0, "{blank:?}");
    }
}

/// As templates of models that think do: thoughts are left out, or taken apart and put together again.
#[test]
fn what_a_template_keeps_of_a_completion_is_found() {
    let found = |template: &str, completion: &str| {
        let template = format!(
            "{{% for m in messages %}}<s>{{{{ m.role }}}} {template}</s>{{% endfor %}}\
             {{{{ '<s>assistant ' if add_generation_prompt }}}}"
        );
        let rendered = render(&text(Some(&template), false), &[user("two")], completion, Locate::Whole).unwrap();
        rendered.text[place(&rendered)].to_owned()
    };
    let forgetful = "{{ m.content.split('</think>')[-1].lstrip('\n') }}";
    assert_eq!(found(forgetful, "<think>and make</think>\n\nfour"), "four");
    assert_eq!(found(forgetful, "four"), "four");
    let remembering = "{% set parts = m.content.split('</think>') %}{% if parts | length > 1 %}<think>\n\
        {{ parts[0].split('<think>')[-1].strip('\n') }}\n</think>\n\n{{ parts[1].lstrip('\n') }}\
        {% else %}<think>\n\n</think>\n\n{{ m.content }}{% endif %}";
    assert_eq!(found(remembering, "<think>\nand</think>four"), "<think>\nand\n</think>\n\nfour");
    assert_eq!(found(remembering, "four"), "four");
    assert_eq!(found("{{ m.content | upper }}", "four"), "FOUR");
    assert_eq!(found(remembering, ""), "");
}

#[test]
fn a_completion_without_a_place_is_not_cut_around() {
    // Templates that write nothing of it, or all of it twice, and a prompt that is no beginning of what they write.
    for writer in ["{{ messages[0].content }}", "{% for m in messages %}{{ m.content }} {{ m.content }}{% endfor %}"] {
        let text = text(Some(&format!("{{{{ 'answer: ' if add_generation_prompt }}}}{writer}")), false);
        for (locate, says) in [(Locate::Whole, "length_penalty"), (Locate::Start, "shorten the prompt")] {
            let rejection = render(&text, &[user("two")], "four", locate).err().unwrap();
            assert_eq!(rejection.code, Code::BadMessages);
            assert!(rejection.message.contains(says), "{rejection}");
        }
        assert!(render(&text, &[user("two")], "four", Locate::Nothing).unwrap().completion.is_none());
    }
}
