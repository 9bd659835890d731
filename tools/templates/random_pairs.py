"""Seeded random templates over random conversations: valid by construction, made of what templates are made of."""

import random

ROLES = ["system", "user", "assistant", "tool"]
PIECES = ["a", " b ", "\n", "h\u00e9", "<think>", "</think>", "\t", "x'y", '"', "\u001f", "\U0001f600", "/no_think", "{", "1"]


def text(r):
    return "".join(r.choice(PIECES) for _ in range(r.randrange(5)))


def conversation(r):
    messages = []
    for _ in range(r.randrange(1, 4)):
        message = {"role": r.choice(ROLES), "content": text(r)}
        if r.random() < 0.2:
            message["k"] = r.choice([1, 2.5, None, True, ["p", 1], {"q": "z", "a": 1e-7}])
        if r.random() < 0.1:
            message["content"] = [{"type": "text", "text": text(r)}]
        messages.append(message)
    return messages


STRINGS = ["m.content|string", "m['role']", "'q'", "m.role", "bos_token", "x"]
ITEMS = ["m", "messages", "m.k", "messages[0]", "m.zz", "ns.n", "x", "loop.index", "[1, m.role]", "{'b': m.k, 'a': 1}"]
FILTERS = ["upper", "capitalize", "title", "length|string", "list|join('-')"]
NUMBERS = ["loop.index0", "messages|length", "2", "ns.n", "m.role|length", "-1"]


def string(r, depth=0):
    base = r.choice(STRINGS)
    if depth > 2:
        return base
    pick = r.randrange(14)
    return [
        lambda: base, lambda: f"{base}|trim", lambda: f"({string(r, depth + 1)} ~ {item(r)})", lambda: f"({string(r, depth + 1)} + {string(r, depth + 1)})",
        lambda: f"({base}).split('{r.choice(['</think>', 'a', ' '])}')[{r.choice(['0', '-1', ':1', '1:'])}]|string", lambda: f"({string(r, depth + 1)}).strip({r.choice(['', repr('a '), ''])})",
        lambda: f"({string(r, depth + 1)})[{r.choice(['1:', ':-1', '::2', '::-1', '-3:'])}]", lambda: f"({base}).replace('a', {base})", lambda: f"({string(r, depth + 1)} if {test(r)} else {base})",
        lambda: f"{item(r)}|tojson", lambda: f"({string(r, depth + 1)})|{r.choice(FILTERS)}", lambda: f"'%s:%s' % ({item(r)}, {base})",
        lambda: f"({base}).lstrip('\\n').rstrip()", lambda: f"({number(r)})|string",
    ][pick]()


def number(r):
    return r.choice([lambda: r.choice(NUMBERS), lambda: f"({r.choice(NUMBERS)} {r.choice(['+', '-', '*', '//', '%'])} {r.choice(['3', '2', '1.5'])})", lambda: f"({r.choice(STRINGS)}).find('a')", lambda: f"({r.choice(STRINGS)})|length"])()


def item(r):
    return r.choice([lambda: r.choice(ITEMS), lambda: r.choice(ITEMS), lambda: number(r), lambda: "messages|map(attribute='role')|list", lambda: "messages|selectattr('k', 'defined')|list", lambda: "messages[::-1]"])()


def test(r, depth=0):
    base = r.choice([
        lambda: f"m.role == '{r.choice(ROLES)}'", lambda: f"m.{r.choice(['k', 'zz', 'content'])} is {r.choice(['defined', 'none', 'string', 'mapping', 'iterable', 'not defined', 'sequence', 'number'])}",
        lambda: "loop.first", lambda: "loop.last", lambda: "'think' in m.content", lambda: f"{number(r)} {r.choice(['<', '==', '>='])} {number(r)}", lambda: "m.k", lambda: f"0 < {number(r)} < 3", lambda: "x", lambda: "(m.content|string).startswith('a')",
        lambda: "m['role'] in ['user', 'tool']", lambda: "add_generation_prompt",
    ])()
    if depth < 1 and r.random() < 0.3:
        return f"{'not ' if r.random() < 0.3 else ''}({base}) {r.choice(['and', 'or'])} {test(r, depth + 1)}"
    return base


def block(r, depth=0):
    dash = lambda: r.choice(["", "", "-"])
    tag = lambda inner: "{%" + dash() + " " + inner + " " + dash() + "%}"
    space = lambda: r.choice(["", "\n", "  ", "\n  ", "|"])
    out = lambda expression: "{{" + dash() + " " + expression + " " + dash() + "}}"
    kind = r.randrange(9) if depth < 2 else r.randrange(3)
    if kind == 0:
        return space() + out(string(r)) + space()
    if kind == 1:
        return space() + out(item(r)) + space()
    if kind == 2:
        return r.choice([tag(f"set x = {string(r)}"), tag(f"set ns.n = ns.n + {number(r)}"), "{#" + dash() + " c " + dash() + "#}", tag(f"set ns.n = {number(r)}")]) + space()
    if kind in (3, 4):
        other = tag("else") + block(r, depth + 1) if r.random() < 0.5 else ""
        return space() + tag(f"if {test(r)}") + block(r, depth + 1) + other + tag("endif") + space()
    if kind == 5:
        return tag("for y in " + r.choice(["messages", "[1, 2]", "'ab'", "m.keys()", "m.items()", "range(2)"])) + space() + out("y") + block(r, depth + 1) + tag("endfor")
    if kind == 6:
        return tag("set x") + block(r, depth + 1) + tag("endset") + out("x")
    if kind == 7:
        return tag("generation") + space() + block(r, depth + 1) + tag("endgeneration")
    return "".join(block(r, depth + 1) for _ in range(2))


VALUES = 200


def pair(seed):
    r = random.Random(seed)
    inner = "".join(block(r) for _ in range(r.randrange(1, 4)))
    filtered = f" if {r.choice(['m.role != ' + repr('tool'), 'm.content', 'm.k is not defined'])}" if r.random() < 0.15 else ""
    source = f"{{% set ns = namespace(n=0) %}}{{% set x = '' %}}{{{{ bos_token }}}}{{% for m in messages{filtered} %}}{inner}{{% endfor %}}{{{{ ns.n }}}}"
    if r.random() < 0.1:
        source = source.replace("\n", "\r\n")
    v = random.Random(f"values {seed % VALUES}")
    return source, {"messages": conversation(v), "bos_token": "<s>", "tools": None, "documents": None, "add_generation_prompt": v.random() < 0.5}


def cases(count):
    for seed in range(count):
        yield "random", *pair(seed)
