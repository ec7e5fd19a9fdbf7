//! Templates as models write them, and as an attacker would.

use std::time::{Duration, Instant};

use super::*;

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new("test", source, "<s>", "</s>").unwrap()
}

fn talk() -> Vec<Message> {
    vec![Message::new("user", "Hi"), Message::new("assistant", " Hello. "), Message::new("user", "Bye")]
}

fn render(source: &str) -> String {
    template(source).render(&talk(), true).unwrap()
}

fn refusal(source: &str) -> (usize, String) {
    match ChatTemplate::new("test", source, "", "").and_then(|t| t.render(&talk(), true)) {
        Err(TextError::Template { name, line, why }) => {
            assert_eq!(name, "test");
            (line, why)
        }
        other => panic!("{source:?} gives {other:?}"),
    }
}

#[test]
fn a_template_of_llama_2_writes_its_prompt() {
    let source = "{% for message in messages %}\
        {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
        {{ raise_exception('roles must alternate') }}{% endif %}\
        {% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}\
        {% elif message['role'] == 'assistant' %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}\
        {% endif %}{% endfor %}";
    assert_eq!(render(source), "<s>[INST] Hi [/INST] Hello. </s><s>[INST] Bye [/INST]");
    let twice = [Message::new("user", "a"), Message::new("user", "b")];
    let error = template(source).render(&twice, true).unwrap_err();
    assert_eq!(error.to_string(), "chat template test, line 1: roles must alternate");
}

#[test]
fn blocks_are_trimmed_as_transformers_sets_it() {
    let source =
        "{% for m in messages %}\n    {% if m.role == 'user' %}\n{{ m.content }}\n    {% endif %}\n{% endfor %}\nend\n";
    assert_eq!(render(source), "Hi\nBye\nend");
}

#[test]
fn namespaces_filters_and_python_methods_work() {
    let source = "{%- set ns = namespace(n=0, last='') -%}\
        {%- for m in messages if m['role'] != 'assistant' -%}{%- set ns.n = ns.n + 1 -%}{%- set ns.last = m -%}{%- endfor -%}\
        {{ ns.n }} {{ ns.last | tojson }} {{ ns.last.get('name', 'none') }} {{ ns.last.content.split('y')[0] }} \
        {{ messages[1:] | length }} {{ 'a,b'.upper().replace(',', ';') }} {{ messages | map(attribute='role') | join('/') }} \
        {%- if tools is not none or strftime_now is defined %} tools{% endif %}\
        {%- for k, v in ns.last.items() %} {{ k }}={{ v }}{% endfor %}";
    let want = "2 {\"role\": \"user\", \"content\": \"Bye\"} none B 2 A;B user/assistant/user role=user content=Bye";
    assert_eq!(render(source), want);
}

#[test]
fn generation_marks_change_nothing() {
    let source = "{% for m in messages %}{%- generation -%} {{ m.content }}{%- endgeneration %}|{% endfor %}{% if";
    assert!(ChatTemplate::new("test", source, "", "").is_err());
    let source = source.trim_end_matches("{% if");
    assert_eq!(render(source), "Hi| Hello. |Bye|");
}

#[test]
fn the_generation_prompt_is_the_callers_choice() {
    let source = "{{ messages[-1].content }}{% if add_generation_prompt %} ->{% endif %}";
    assert_eq!(template(source).render(&talk(), false).unwrap(), "Bye");
    assert_eq!(template(source).render(&talk(), true).unwrap(), "Bye ->");
}

#[test]
fn errors_name_the_line() {
    assert_eq!(refusal("a\nb\n{{ raise_exception('no ' ~ messages[0].role) }}"), (3, "no user".to_owned()));
    let (line, why) = refusal("a\n{% for m in messages %}\n{{ m. }}\n{% endfor %}");
    assert!(line == 3 && !why.is_empty(), "{line}: {why}");
    let (line, why) = refusal("\n{{ messages.nothing.deeper }}");
    assert!(line == 2 && why.contains("undefined"), "{line}: {why}");
    let (line, why) = refusal("{{ strftime_now('%d') }}");
    assert!(line == 1 && why.contains("date"), "{line}: {why}");
}

#[test]
fn files_and_other_templates_are_out_of_reach() {
    for source in ["{% include '/etc/passwd' %}", "{% extends 'x' %}", "{% import 'x' as x %}{{ x }}"] {
        refusal(source);
    }
}

#[test]
fn hostile_templates_are_stopped_quickly() {
    let double = "{% set ns = namespace(a='xxxxxxxx') %}{% for i in range(100) %}";
    let cases = [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}".to_owned(),
        "{% for i in range(100000) %}{% for j in range(1000) %}{{ 'x' * 1000 }}{% endfor %}{% endfor %}".to_owned(),
        "{{ 'x' * 99999999 }}".to_owned(),
        "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}".to_owned(),
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}".to_owned(),
        format!("{double}{{% set ns.a = ns.a ~ ns.a %}}{{% endfor %}}{{{{ ns.a | length }}}}"),
        format!("{double}{{% set ns.a = ns.a + ns.a %}}{{% endfor %}}"),
        format!("{double}{{% set ns.a = ns.a.replace('x', 'xx') %}}{{% endfor %}}"),
        format!("{double}{{% set ns.a = ns.a | replace('x', 'xx') %}}{{% endfor %}}"),
        format!("{double}{{% set ns.a = [ns.a, ns.a] | join('') %}}{{% endfor %}}"),
        format!("{double}{{% set ns.a = ns.a.join([ns.a, ns.a]) %}}{{% endfor %}}"),
        "{{ ''.join(['x' * 1000] * 99999999) }}".to_owned(),
        "{{ (['x' * 1000] * 99999999) | join('') }}".to_owned(),
        "{{ ['x' * 1000] * 99999999 }}".to_owned(),
        "{{ (['x' * 1000] * 99999999) | string }}".to_owned(),
        "{{ '%s' | format(['x' * 1000] * 99999999) }}".to_owned(),
        "{{ '{}'.format(['x' * 1000] * 99999999) }}".to_owned(),
        "{{ (['x' * 1000] * 99999999) | tojson }}".to_owned(),
        "{{ (['x'] * 99999999) | list | length }}".to_owned(),
        "{{ (['x'] * 99999999).count('x') }}".to_owned(),
        "{{ '{:>999999999}'.format('x') }}".to_owned(),
        "{{ '%999999999s' | format('x') }}".to_owned(),
        "{{ ('x' * 1000) | indent(99999999, true) }}".to_owned(),
        "{{ messages | tojson(indent=99999999) }}".to_owned(),
        "{% set ns = namespace(a=messages) %}{% for i in range(100) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a | tojson }}".to_owned(),
        "{% set ns = namespace(a=messages) %}{% for i in range(100) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a }}".to_owned(),
        "{% set ns = namespace(a=1) %}{% for i in range(99999) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a | tojson }}".to_owned(),
    ];
    for source in cases {
        let start = Instant::now();
        let shown = &source[..source.len().min(120)];
        refusal(&source);
        assert!(start.elapsed() < Duration::from_secs(2), "{shown} took {:?}", start.elapsed());
    }
}

/// Some of these are valid programs; the point is that each is over soon and none takes the process with it.
#[test]
fn deep_expressions_overflow_no_stack() {
    let repeat = |pattern: &str| pattern.repeat(60_000 / pattern.len());
    let chains =
        ["+1", "~1", "*1", "**1", "/1", " and 1", " in 1", " is x", "|x", ".x", "[1]", "(1)", " if 1 else 1", "{%"];
    let openings = ["-", "not ", "(", "[", "{1:", "x(", "1 if 1 else "];
    let blocks =
        ["{% if 1 %}", "{% for x in y %}", "{% macro x() %}", "{% set x %}", "{% filter x %}", "{{", "{#", "{%"];
    let chained =
        chains.iter().flat_map(|c| [format!("{{{{ x{} }}}}", repeat(c)), format!("{{{{ 'x'{} }}}}", repeat(c))]);
    let opened = openings.iter().map(|o| format!("{{{{ {}1 }}}}", repeat(o)));
    let elifs = format!("{{% if 1 %}}{}{{% endif %}}", repeat("{% elif 1 %}"));
    let sources = chained.chain(opened).chain(blocks.iter().map(|b| repeat(b))).chain([elifs]);
    for source in sources {
        let start = Instant::now();
        let _ = ChatTemplate::new("test", &source, "", "").and_then(|t| t.render(&talk(), true));
        assert!(start.elapsed() < Duration::from_secs(10), "{} took {:?}", &source[..40], start.elapsed());
    }
}

#[test]
fn long_conversations_are_not_taken_for_attacks() {
    let source = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content.strip() + '<|im_end|>' + '\\n' }}{% endfor %}";
    let many: Vec<Message> = (0..2000).map(|i| Message::new("user", format!("{i} {}", "word ".repeat(50)))).collect();
    assert_eq!(template(source).render(&many, true).unwrap().matches("<|im_start|>").count(), 2000);
    let long = [Message::new("user", "word ".repeat(400_000))];
    assert!(template(source).render(&long, true).unwrap().len() > 1_999_000);
}

#[test]
fn a_template_of_megabytes_is_refused() {
    let error = ChatTemplate::new("test", &"x".repeat(1 << 21), "", "").unwrap_err();
    assert!(error.to_string().contains("bytes"), "{error}");
}

#[test]
fn braces_of_tags_are_no_operators() {
    let source = "{%- for m in messages -%}{{- m.content -}}{% endfor %}".repeat(900);
    assert_eq!(operators(&source), 0);
    assert_eq!(operators("{{ a - b + c % d ~ e / f * g -}} x"), 6);
    assert_eq!(operators("-{}-{}%{}"), 3);
}
