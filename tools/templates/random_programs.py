"""Seeded random templates with every statement, operator, filter, test and method, over values of every kind. Many are wrong: Jinja2
refuses them, and so must we."""

import random

TEXTS = ["''", "'a'", "'Hello World'", "' b '", "'x,y,,z'", "'h\u00e9\u00df\U0001f600'", "'a\\nb\\n\\nc'", "'<b>\"q\"</b>'", "'12'", "'-3.5'", "'%s-%s'", "'{}|{}'", "'it\\'s'", "'\\t\\u00a0x'",
    "'one two three four'", "'\u01c5\u0130\u03a3'", "'</think>'", "\"d\"", "'a-b_c d.e'", "'0x1F'", "'\\x1f'", "'a' 'b'", "'e\u0301'"]
NUMBERS = ["0", "1", "2", "3", "-1", "-2", "7", "10", "1.5", "0.1", "2.0", "-0.5", "1e3", "1e-7", "100000000000000000000", "0x1f", "1_000", "2.675", "1e16"]
OTHERS = ["true", "false", "none", "nope", "True", "None"]
NAMES = ["s", "t", "u", "n", "f", "b", "o", "l", "d", "m", "messages", "tools", "x", "y", "z", "ns", "ns.k", "ns.zz", "big", "e", "loop", "item"]
ATTRIBUTES = ["role", "content", "k", "zz", "items", "a", "name", "0", "upper", "real", "n", "__class__", "_p"]
ITEMS = ["0", "-1", "1", "5", "'role'", "'content'", "'k'", "'a'", "'zz'", "x", "1.0", "true", "none", "n", "'items'", "'upper'"]
SLICES = ["1:", ":1", ":-1", "::2", "::-1", "-2:", "1:3", "3:1:-1", ":", "n:", "-100:100", "::0", "1:none", "'a':", ":2:1"]
UNARY_FILTERS = [
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "forceescape", "int", "items", "join", "last", "length", "list", "lower", "max", "min",
    "reverse", "round", "safe", "sort", "string", "striptags", "sum", "title", "tojson", "trim", "unique", "upper", "urlencode", "wordcount", "xmlattr", "filesizeformat", "indent", "wordwrap",
    "center", "truncate", "list|string", "items|list", "unique|list", "reverse|list", "map|list", "select|list", "reject|list",
]
METHODS = {
    "strip": 1, "lstrip": 1, "rstrip": 1, "split": 2, "rsplit": 2, "find": 3, "rfind": 3, "index": 1, "rindex": 1, "count": 1, "replace": 3, "startswith": 2, "endswith": 2, "upper": 0, "lower": 0, "title": 0,
    "capitalize": 0, "swapcase": 0, "casefold": 0, "partition": 1, "rpartition": 1, "removeprefix": 1, "removesuffix": 1, "join": 1, "zfill": 1, "center": 2, "ljust": 2, "rjust": 2, "expandtabs": 1,
    "splitlines": 1, "isalpha": 0, "isdigit": 0, "isdecimal": 0, "isnumeric": 0, "isalnum": 0, "isspace": 0, "isupper": 0, "islower": 0, "istitle": 0, "isidentifier": 0, "isascii": 0, "isprintable": 0,
    "format": 2, "items": 0, "keys": 0, "values": 0, "get": 2, "copy": 0, "append": 1, "bit_length": 0, "is_integer": 0, "update": 1, "conjugate": 0, "as_integer_ratio": 0, "translate": 1, "format_map": 1, "pop": 0, "nothing": 0,
}
TESTS = [
    "boolean", "callable", "defined", "undefined", "divisibleby(2)", "divisibleby 3", "escaped", "even", "odd", "false", "true", "float", "integer", "iterable", "lower", "upper", "mapping", "none", "number", "sameas none",
    "sequence", "string", "in [1, 'a', none]", "eq(1)", "ne 2", "lt 3", "gt(1)", "ge 1", "le 0", "equalto 'a'", "filter", "test", "sameas true", "in 'abc'", "lessthan 2", "greaterthan 1",
]
NAMED_TESTS = ["'odd'", "'string'", "'defined'", "'eq', 1", "'ne', 'a'", "'none'", "'mapping'", "'in', ['a', 1]", "'gt', 1", "'sameas', none", "'zz'", "'number'", "'truthy'", "'==', 2", "'iterable'"]
NAMED_FILTERS = ["'upper'", "'string'", "'length'", "'default', 'x'", "'int'", "'trim'", "'tojson'", "'first'", "'replace', 'a', 'b'", "'list'", "'zz'", "'join', '-'", "'attr', 'real'", "'abs'", "'title'"]
SPECS = ["", ":>8", ":<6", ":^7", ":*^9", ":05", ":+", ":.2f", ":,", ":x", ":#x", ":e", ":g", ":%", ":.1%", ":s", ":.3", ":08.3f", ":d", ":b", ":_", ":c", ":+.2e", ":=6", "!r", "!s", "!r:>10", ":n", ":G", ":,.2f", ":010,"]
PERCENTS = ["%s", "%r", "%d", "%5d", "%-5s|", "%05d", "%.2f", "%x", "%#x", "%e", "%g", "%%", "%c", "%+d", "% d", "%.3s", "%5.1f", "%i", "%o", "%X", "%(a)s", "%(k)d", "%a", "%10r", "%-8.3f", "%G", "%z"]


class Maker:
    def __init__(self, seed):
        self.r = random.Random(seed)
        self.loops = 0
        self.macros = []

    def pick(self, items):
        return self.r.choice(items)

    def some(self, *makers):
        return self.pick(makers)()

    # Expressions

    def atom(self):
        pick = self.r.random()
        if pick < 0.25:
            return self.pick(TEXTS)
        if pick < 0.4:
            return self.pick(NUMBERS)
        if pick < 0.47:
            return self.pick(OTHERS)
        return self.pick(NAMES)

    def arguments(self, count, depth):
        return ", ".join(self.expression(depth + 2) for _ in range(self.r.randint(0 if self.r.random() < 0.3 else count, count)))

    def postfix(self, depth):
        base = self.atom() if self.r.random() < 0.6 else "(" + self.expression(depth + 1) + ")"
        for _ in range(self.r.choice([0, 1, 1, 2])):
            kind = self.r.randrange(6)
            if kind == 0:
                base += "." + self.pick(ATTRIBUTES)
            elif kind == 1:
                base += "[" + self.pick(ITEMS) + "]"
            elif kind == 2:
                base += "[" + self.pick(SLICES) + "]"
            elif kind in (3, 4):
                name = self.pick(list(METHODS))
                base += f".{name}({self.arguments(METHODS[name], depth)})"
            else:
                base += "|" + self.filter(depth)
        return base

    def filter(self, depth):
        kind = self.r.randrange(24)
        part = lambda: self.expression(depth + 2)
        small = lambda: self.pick(["0", "1", "2", "3", "5", "8", "n"])
        return [
            lambda: self.pick(UNARY_FILTERS), lambda: self.pick(UNARY_FILTERS), lambda: self.pick(UNARY_FILTERS), lambda: self.pick(UNARY_FILTERS),
            lambda: f"default({part()}{self.pick(['', ', true', ', boolean=false'])})",
            lambda: f"join({self.pick(TEXTS)}{self.pick(['', '', ', ' + repr('role'), ', attribute=' + repr('k')])})",
            lambda: f"replace({self.pick(TEXTS)}, {self.pick(TEXTS)}{self.pick(['', ', 1', ', -1', ', none'])})",
            lambda: f"map(attribute={self.pick(['role', 'k', 'a.b', '0', 'content.0', 'zz'])!r}{self.pick(['', ', default=' + self.pick(['1', repr('x'), 'none'])])})|list",
            lambda: f"map({self.pick(NAMED_FILTERS)})|{self.pick(['list', 'list', 'join', 'first', 'sum', 'length'])}",
            lambda: f"{self.pick(['select', 'reject'])}({self.pick(NAMED_TESTS)})|{self.pick(['list', 'list', 'first', 'join(' + repr('-') + ')'])}",
            lambda: f"{self.pick(['selectattr', 'rejectattr'])}({self.pick(['role', 'k', 'a', 'content', 'zz'])!r}{self.pick(['', ', ' + self.pick(NAMED_TESTS)])})|list",
            lambda: f"sort({self.pick(['', 'true', 'attribute=' + repr('role'), 'case_sensitive=true', 'reverse=true', 'attribute=' + repr('k,role')])})",
            lambda: f"groupby({self.pick(['role', 'k', 'zz', 'content'])!r}{self.pick(['', ', default=1', ', case_sensitive=true', ', default=' + repr('')])})",
            lambda: f"dictsort({self.pick(['', 'true', 'by=' + repr('value'), 'reverse=true', 'false, ' + repr('value')])})",
            lambda: f"batch({small()}{self.pick(['', ', 0', ', ' + repr('-')])})|list", lambda: f"slice({small()}{self.pick(['', ', none', ', ' + repr('-')])})|list",
            lambda: f"round({self.pick(['', '1', '2', '-1', '0, ' + repr('floor'), '1, ' + repr('ceil'), 'method=' + repr('ceil'), '3'])})",
            lambda: f"{self.pick(['int', 'float'])}({self.pick(['', '7', 'default=1.5', 'none', '0'])})",
            lambda: f"indent({self.pick(['', '2', '2, true', '1, false, true', repr('> '), 'first=true', 'blank=true, width=3', '0'])})",
            lambda: f"truncate({self.pick(['5', '8, true', '6, false, ' + repr('..') + ', 0', '3, end=' + repr(''), '9, leeway=0', '1', 'length=4, killwords=true, leeway=0', '255'])})",
            lambda: f"wordwrap({self.pick(['5', '8', '3, false', '7, true, ' + repr('|'), '1', '4, break_on_hyphens=false', '79', '0', '6, wrapstring=' + repr('/')])})",
            lambda: f"tojson({self.pick(['', 'indent=2', 'ensure_ascii=true', 'separators=(' + repr(',') + ', ' + repr(':') + ')', 'sort_keys=true', 'indent=' + repr('-'), 'indent=0', 'true, 1', 'indent=none'])})",
            lambda: f"{self.pick(['center(9)', 'center(width=4)', 'trim(' + self.pick(TEXTS) + ')', 'format(' + self.arguments(2, depth) + ')', 'attr(' + repr('real') + ')', 'attr(' + repr('role') + ')', 'sum(start=1)', 'sum(' + repr('k') + ')', 'unique(attribute=' + repr('role') + ')|list', 'unique(true)|list', 'max(attribute=' + repr('k') + ')', 'min(true)', 'xmlattr(false)', 'filesizeformat(true)', 'int(0, 16)', 'int(base=0)'])}",
            lambda: f"map({self.pick(['attribute=1', 'attribute=0', repr('map')])})|list",
        ][kind]()

    def expression(self, depth=0):
        if depth > 3:
            return self.atom()
        kind = self.r.randrange(22)
        inner = lambda: self.expression(depth + 1)
        return [
            self.atom, self.atom, lambda: self.postfix(depth), lambda: self.postfix(depth), lambda: self.postfix(depth), lambda: self.postfix(depth),
            lambda: f"{inner()} {self.pick(['+', '+', '-', '*', '/', '//', '%', '~', '~'])} {inner()}" if self.r.random() < 0.9 else f"{inner()} ** {self.pick(['2', '3', '0', '-1', '0.5', '64', 'true'])}", lambda: f"{inner()} {self.pick(['+', '-', '*', '//', '%', '~'])} {inner()}",
            lambda: f"{inner()} {self.pick(['==', '!=', '<', '<=', '>', '>=', 'in', 'not in'])} {inner()}",
            lambda: f"{inner()} {self.pick(['<', '<=', '==', '>'])} {inner()} {self.pick(['<', '>=', '!=', 'in'])} {inner()}",
            lambda: f"{inner()} {self.pick(['and', 'or'])} {inner()}", lambda: f"{self.pick(['not ', '-', '+', 'not not ', '--'])}{inner()}",
            lambda: f"{inner()} if {inner()}{self.pick([' else ' + inner(), ' else ' + inner(), ''])}", lambda: f"{inner()} is {self.pick(['', 'not '])}{self.pick(TESTS)}",
            lambda: "[" + ", ".join(inner() for _ in range(self.r.randrange(4))) + "]", lambda: "(" + ", ".join(inner() for _ in range(self.r.randrange(1, 4))) + self.pick(["", ","]) + ")",
            lambda: "{" + ", ".join(f"{self.pick(TEXTS + NUMBERS[:6])}: {inner()}" for _ in range(self.r.randrange(3))) + "}",
            lambda: repr("".join(self.pick(["a", "", " ", "\u00e9"]) + self.pick(PERCENTS) for _ in range(self.r.randrange(1, 3)))) + " % " + self.pick([self.atom(), "(" + inner() + ", " + inner() + ")", "(" + inner() + ",)", "d"]),
            lambda: repr("".join(self.pick(["a", "", "-"]) + "{" + self.pick(["", "", "0", "1", "k", "0.role", "0[0]", "k[a]"]) + self.pick(SPECS) + "}" for _ in range(self.r.randrange(1, 3)))) + f".format({inner()}, {inner()}, k={self.atom()})",
            lambda: self.pick([f"range({self.arguments(3, depth)})", f"dict({self.pick(['d', '', '[(1, 2)]', 'zz'])}{self.pick(['', ''])})", "dict(a=1, **d)", f"range({self.r.randrange(5)})|list", "namespace(a=1).a", "namespace(d).a", "strftime_now('%Y-%m-%d %B')",
                "joiner('-')()", "cycler(1, 2).next()", "cycler('a').current", "raise_exception('no')", "dict.fromkeys('ab', 1)"]),
            lambda: f"{self.pick(self.macros)}({self.call_arguments(depth)})" if self.macros else self.atom(),
            lambda: self.pick(["loop.index", "loop.index0", "loop.first", "loop.last", "loop.length", "loop.revindex", "loop.revindex0", "loop.previtem", "loop.nextitem", "loop.depth", "loop.cycle('a', 'b')", "loop.changed(x)", "loop"]) if self.loops else self.atom(),
        ][kind]()

    def call_arguments(self, depth):
        places = [self.expression(depth + 2) for _ in range(self.r.randrange(3))]
        named = [f"{name}={self.expression(depth + 2)}" for name in self.r.sample(["a", "b", "c"], self.r.randrange(3))]
        more = self.pick([[], [], [], ["*l"], ["**d"], ["*'ab'"]])
        return ", ".join(places + named + more)

    # Statements

    def tag(self, inner):
        return "{%" + self.pick(["", "", "", "-", "+"]) + " " + inner + " " + self.pick(["", "", "", "-", "+"]) + "%}"

    def out(self, inner):
        return "{{" + self.pick(["", "", "", "-"]) + " " + inner + " " + self.pick(["", "", "", "-"]) + "}}"

    def space(self):
        return self.pick(["", "", "\n", " ", "\n  ", "|", " a ", "\t\n", "\n\n"])

    def target(self):
        return self.pick(["x", "y", "z", "x", "ns.k", "x, y", "(x, y)", "item", "ns.j, z"])

    def body(self, depth, count=3):
        return "".join(self.space() + self.statement(depth + 1) for _ in range(self.r.randrange(1, count))) + self.space()

    def statement(self, depth=0):
        if depth > 3 or self.r.random() < 0.35:
            return self.out(self.expression())
        kind = self.r.randrange(22)
        return [
            lambda: self.tag(f"set {self.target()} = {self.expression()}"), lambda: self.tag(f"set {self.target()} = {self.expression()}{self.pick(['', ', ' + self.expression(2)])}"),
            lambda: self.tag("set " + self.pick(["x", "y", "ns.k", "x | upper", "y | trim | replace('a', 'b')", "z | length"])) + self.body(depth) + self.tag("endset"),
            lambda: self.conditional(depth), lambda: self.conditional(depth), lambda: self.conditional(depth), lambda: self.loop(depth), lambda: self.loop(depth), lambda: self.loop(depth),
            lambda: self.macro(depth), lambda: self.call(depth), lambda: self.tag("filter " + self.pick(["upper", "trim", "replace('a', 'b')", "indent(2)", "upper | title", "length", "tojson", "wordwrap(6)", "default('x')"])) + self.body(depth) + self.tag("endfilter"),
            lambda: self.tag("with " + self.pick(["x = 1", "x = y, y = x", "", "z = " + self.expression(2), "x, y = (1, 2)", "s = s ~ 'w'"])) + self.body(depth) + self.tag("endwith"),
            lambda: self.tag("raw") + self.pick(["{{ x }}", "{% if %}", " a\n", "{# #}"]) + self.tag("endraw"), lambda: "{#" + self.pick(["", "-", "+"]) + " c " + self.pick(["", "-", "+"]) + "#}",
            lambda: self.tag("generation") + self.body(depth) + self.tag("endgeneration"), lambda: self.tag("autoescape false") + self.body(depth, 2) + self.tag("endautoescape"),
            lambda: self.tag("print " + self.expression() + self.pick(["", ", " + self.atom()])), lambda: self.out(self.expression() + self.pick(["", ", " + self.atom()])),
            lambda: self.tag(self.pick(["break", "continue"])) if self.loops else self.out(self.expression()), lambda: self.tag("if " + self.expression()) + self.tag(self.pick(["break", "continue"])) + self.tag("endif") if self.loops else self.out(self.atom()),
            lambda: self.recursive(depth),
        ][kind]()

    def conditional(self, depth):
        source = self.tag("if " + self.expression()) + self.body(depth)
        for _ in range(self.pick([0, 0, 0, 1, 2])):
            source += self.tag("elif " + self.expression()) + self.body(depth, 2)
        if self.r.random() < 0.4:
            source += self.tag("else") + self.body(depth, 2)
        return source + self.tag("endif")

    def loop(self, depth):
        target, items = self.pick([
            ("item", self.pick(["messages", "l", "'ab'", "d", "range(3)", "[1, 2, 3]", "m.k", "nope", "[[1, 2], [3, 4]]", "messages|selectattr('k', 'defined')", "messages[1:]", "(1, 2, 1, 1)", "[]", "messages|map(attribute='role')", "l|reverse", self.expression(2)])),
            ("item", self.pick(["messages", "l", "range(4)"])), ("x, y", self.pick(["d.items()", "[(1, 2), (3, 4)]", "d|dictsort", "messages[0].items()", "['ab', 'cd']", "d|items", "messages|groupby('role')", "[(1, 2, 3)]"])),
            ("x", self.pick(["l", "messages", "d.values()", "'a b'.split()"])), ("(x, y), z", "[((1, 2), 3), ('ab', 'c')]"),
        ])
        condition = f" if {self.pick(['item', 'x', 'item != 2', 'item.role != ' + repr('tool'), 'loop', 'x is defined', self.expression(2)])}" if self.r.random() < 0.25 else ""
        self.loops += 1
        source = self.tag(f"for {target} in {items}{condition}") + self.body(depth)
        self.loops -= 1
        if self.r.random() < 0.2:
            source += self.tag("else") + self.body(depth, 2)
        return source + self.tag("endfor")

    def recursive(self, depth):
        self.loops += 1
        source = self.tag("for item in tree recursive") + self.pick(["", self.space()]) + self.out(self.pick(["item.v", "loop.depth", "loop.index ~ item.v", "loop.depth0 ~ loop.last"])) + self.tag("if item.c") + "(" + self.out("loop(item.c)") + ")" + self.tag("endif") + self.body(depth, 2) + self.tag("endfor")
        self.loops -= 1
        return source

    def macro(self, depth):
        name = self.pick(["f", "g", "h"])
        loops, self.loops = self.loops, 0
        parameters = self.pick(["", "a", "a, b", "a, b=1", "a=x, b='q'", "a, b=a, c=3", "a, caller=none", "x=x"])
        body = self.body(depth) + self.pick(["", self.out("a"), self.out("b ~ c"), self.out("varargs"), self.out("kwargs"), self.out("caller()"), self.out("a ~ varargs ~ kwargs|length"), self.out("caller(1)") if self.r.random() < 0.5 else "", self.out("caller is defined")])
        self.loops = loops
        source = self.tag(f"macro {name}({parameters})") + body + self.tag("endmacro")
        self.macros.append(name)
        return source + (self.out(f"{name}({self.call_arguments(1)})") if self.r.random() < 0.7 else "")

    def call(self, depth):
        if not self.macros:
            return self.out(self.expression())
        loops, self.loops = self.loops, 0
        body = self.body(depth, 2)
        self.loops = loops
        return self.tag(f"call{self.pick(['', '', '(a)', '(a, b=2)'])} {self.pick(self.macros)}({self.call_arguments(1)})") + body + self.tag("endcall")


def values(seed):
    r = random.Random(f"values {seed}")
    text = lambda: "".join(r.choice(["a", " b ", "\n", "h\u00e9", "<think>", "</think>", "\t", "x'y", '"', "\u001f", "\U0001f600", "1", "A", "-", "%s", "{}"]) for _ in range(r.randrange(5)))
    scalar = lambda: r.choice([text(), text(), r.randrange(-3, 12), r.choice([0.5, 2.0, -1.25, 1e20]), True, False, None])
    messages = []
    for _ in range(r.randrange(1, 4)):
        message = {"role": r.choice(["system", "user", "assistant", "tool"]), "content": r.choice([text(), text(), None, [{"type": "text", "text": text()}]])}
        if r.random() < 0.4:
            message["k"] = r.choice([scalar(), scalar(), [scalar(), scalar()], {"a": scalar()}])
        messages.append(message)
    return {
        "s": text(), "t": text(), "u": "", "n": r.randrange(-2, 6), "f": r.choice([0.5, -2.5, 3.0, 1e-9]), "b": r.random() < 0.5, "o": None, "big": r.choice([2**53 + 1, 2**63, -(10**18)]),
        "l": [scalar() for _ in range(r.randrange(5))], "e": [], "d": {r.choice(["a", "b", "k", "Z", "items"]): scalar() for _ in range(r.randrange(4))}, "m": {"k": [1, "a", [2]], "role": text()}, "messages": messages, "tools": r.choice([None, [{"name": "f", "n": 1}]]),
        "tree": [{"v": 1, "c": [{"v": text()}, {"v": 3, "c": [{"v": 4}]}]}, {"v": scalar()}],
    }


VALUES = 200


def pair(seed, render):
    """A template that grows by statements. Those with which Jinja2 would refuse it are left out again, but for some."""
    maker = Maker(seed)
    given = values(seed % VALUES)
    source = maker.pick(["", "{% set ns = namespace(k=1) %}"])
    for _ in range(maker.pick([1, 2, 2, 3])):
        for _ in range(6):
            macros = list(maker.macros)
            longer = source + maker.space() + maker.statement()
            if len(longer) < 600 and ("text" in render(longer, given) or maker.r.random() < 0.04):
                source = longer
                break
            maker.macros = macros
    source += maker.space() if source.strip() else "."
    if maker.r.random() < 0.05:
        source = source.replace("\n", "\r\n")
    return source, given


def cases(count, render, first=0):
    for seed in range(first, first + count):
        yield "programs", *pair(seed, render)
