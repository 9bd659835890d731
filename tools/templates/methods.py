"""Every filter, test, operator and method that a template can reach, with odd arguments: one expression a case."""

VARIABLES = {
    "s": "h\u00e9llo W\u00f6rld",
    "t": " \u001f\u00a0ab  cd\n\u2028x\t",
    "e": "",
    "d": {"b": 1, "a": None, "items": [1.0, True, "x'y"]},
    "l": [3, 1, 2],
    "n": None,
    "i": -7,
    "f": 1e20,
    "g": 0.1,
    "u8": "stra\u00dfe \u01c6 \u0130 \ufb01",
    "m": [{"r": "user", "k": 2}, {"r": "Tool", "k": 1}, {"r": "user"}],
}

TEXTS = ["s", "t", "e", "u8", "'a,b,,c'", "'\u03a3\u0391\u03a3'", "'12\u00b2'", "'x{}y{1}'"]
TEXT_METHODS = {
    "upper": [""], "lower": [""], "title": [""], "capitalize": [""], "swapcase": [""], "casefold": [""],
    "strip": ["", "'h '", "none", "1"], "lstrip": ["", "' h'"], "rstrip": ["", "'dx\\t'"],
    "split": ["", "','", "none, 1", "'l', 1", "maxsplit=1", "sep=','", "''", "' '"],
    "rsplit": ["", "','", "none, 1", "'l', 1", "' ', maxsplit=1"],
    "splitlines": ["", "true"],
    "find": ["'l'", "'l', 4", "'', 50", "'d', -1", "'zz'", "'l', none, 3", "1", ""], "rfind": ["'l'", "'l', 0, 4", "''"],
    "index": ["'l'", "'zz'"], "rindex": ["'l'"], "count": ["'l'", "''", "'l', 5"],
    "replace": ["'l', 'L'", "'l', 'L', 1", "'', '-'", "'l', 1"],
    "startswith": ["'h'", "('x', 'h')", "'l', 2", "1"], "endswith": ["'d'", "('x', 'ld')"],
    "partition": ["'l'", "'zz'", "''"], "rpartition": ["'l'", "'zz'"],
    "removeprefix": ["'h'"], "removesuffix": ["'ld'"], "join": ["['1', '2']", "[1]", "'ab'", "{}"],
    "zfill": ["3", "20"], "center": ["20", "20, '*'"], "ljust": ["14", "14, '.'"], "rjust": ["14"], "expandtabs": ["", "2"],
    "isalpha": [""], "isdigit": [""], "isnumeric": [""], "isdecimal": [""], "isalnum": [""], "isspace": [""], "isupper": [""],
    "islower": [""], "istitle": [""], "isidentifier": [""], "isascii": [""], "isprintable": [""],
    "format": ["1, 2", "'a', b=1"], "nothing": [""],
}
FILTERS = {
    "abs": [""], "attr": ["'upper'", "'zz'"], "batch": ["2", "2, 'x'"], "capitalize": [""], "center": ["20"], "count": [""],
    "default": ["", "'x'", "'x', true"], "dictsort": ["", "true", "by='value'", "reverse=true"], "first": [""], "last": [""],
    "float": ["", "2.5"], "int": ["", "5", "0, 16"], "format": ["1, 2"], "groupby": ["'r'", "'k'"],
    "indent": ["", "2, true", "2, true, true", "'> '"], "items": [""], "join": ["", "', '", "'-', 'r'", "attribute='k'"], "length": [""], "list": [""],
    "lower": [""], "map": ["'upper'", "attribute='r'", "'default', 1", "attribute='k', default=0"], "max": [""], "min": [""],
    "reject": ["", "'odd'"], "rejectattr": ["'k'", "'k', 'eq', 2"], "replace": ["'l', 'L'", "'l', 'L', 1"], "reverse": [""],
    "round": ["", "1", "0, 'floor'", "1, 'ceil'"], "select": ["", "'odd'", "'string'"], "selectattr": ["'k'", "'r', 'equalto', 'user'", "'k', 'defined'"],
    "slice": ["2", "2, 'x'"], "sort": ["", "true", "attribute='r'", "case_sensitive=true"], "string": [""], "sum": ["", "attribute='k'", "start=1"],
    "title": [""], "tojson": ["", "indent=2", "ensure_ascii=true", "separators=(',', ':')", "sort_keys=true", "indent=1, separators=(';', '=')", "nothing=1"],
    "trim": ["", "'h'"], "truncate": ["5", "5, true", "6, false, '..', 0"], "unique": [""], "upper": [""], "urlencode": [""], "wordcount": [""],
}
TESTS = ["odd", "even", "divisibleby(2)", "divisibleby 3", "defined", "undefined", "none", "boolean", "false", "true", "integer", "float", "lower",
    "upper", "string", "mapping", "number", "sequence", "iterable", "callable", "sameas none", "in [1, 'x']", "eq 3", "ne 3", "gt 2", "ge 2", "lt 2",
    "le 2", "equalto 'user'", "filter", "test", "escaped", "not none", "not defined"]
VALUES = ["s", "e", "d", "l", "n", "i", "f", "g", "m", "true", "zz", "1.5", "()", "(1, 'a')", "[[1], {}]", "range(3)", "2.5", "'x'"]
OPERATORS = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", "<=", "in", "not in", "and", "or"]
OPERANDS = ["s", "'%s|%r'", "d", "l", "n", "i", "2", "0", "g", "true", "zz", "(1, 2)", "3.0"]
OTHERS = [
    "1 < 2 < 3", "3 > 2 > 2", "1 < 3 == 3", "1 == 1.0 == true", "s[::-1]", "s[-3:]", "s[1:9:2]", "s[8:1:-3]", "s[20]", "s[-1]", "l[-1]", "l[5]",
    "l[::2]", "l[:-1]", "(1, 2, 3)[1:]", "d['zz']", "d.zz", "d.zz.y", "zz.y", "zz['y']", "d.items()", "d.items()|list", "d.keys()|list", "d.values()|list",
    "d.keys()", "d.values()", "d.get('zz')", "d.get('zz', 1)", "d.get('a', 5)", "d['items']", "d.b", "d|length", "d|list", "'b' in d", "not zz",
    "zz|default('x')", "zz ~ 'x'", "'%d %5.2f %-5s| %x %e %g %%' % (3, 2.5, 'a', 255, 1e10, 0.0001)", "'%(b)s' % d", "'%s' % n", "'%s' % l|string",
    "'%s' % (l,)", "'%s %s' % (1,)", "'{:>8} {:<5}| {:^7} {:05.1f} {!r}'.format('a', 1, 'b', 2.25, 'q')", "'{a[0]} {a}'.format(a=[1])",
    "'{0.__class__}'.format(1)", "''.__class__", "l.append(4)", "d.update({})", "l.index(1)", "l.count(3)", "l.copy()", "d.copy()", "(1).real",
    "1.0", "1e16", "1e15", "123456789.123", "1e-5", "0.0001", "-0.0", "1/3", "2**0.5", "7 // -2", "-7 % 3", "7.5 // 2", "-7.5 % 2", "2**-1", "2**62",
    "10**20", "1 + true", "true + true", "none", "[none, true, 1.0, 'a', \"it's\", '\\n\\\\']", "{'a': {'b': (1,)}}", "{1: 2, 1.5: none}", "(1,)", "()", "[]", "{}",
    "{'a': 1}|tojson", "{1: 2, none: 3, true: 4}|tojson", "[1, 2] == [1.0, 2]", "{'a': 1} == {'a': 1.0}", "(1, 2) == [1, 2]", "'a' < 'b'", "[1, 2] < [1, 3]",
    "1 < 'a'", "none < 1", "'b' 'c'", "'\\u00e9\\x41\\101\\n'", "1_000", "0x1f", "0b11", "0o17", "1.5e3", "'a' if zz else 'b'", "'a' if zz", "('a' if zz) is undefined",
    "range(5)|list", "range(2, 10, 3)|list", "range(5, 0, -2)|list", "range(3)", "range(200000)|length", "dict(a=1, b=2)", "dict(d, c=3)", "namespace(a=1).a",
    "namespace(a=1)", "namespace(_a=1)", "cycler('a', 'b').next()", "joiner(',')() ~ 'x'", "lipsum is defined", "strftime_now('%d %b %Y')", "strftime_now('%-d %B')",
    "s.upper is defined", "s.upper is callable", "s|upper|lower|title", "-i|abs", "-l|length", "not true == false", "1 if true else 2 if false else 3",
    "i is not odd", "i is odd and true", "[1, [2, 3]]|map('string')|list", "l|sort|first", "m|map(attribute='r')|join(',')", "m|selectattr('k')|list|length",
    "m|groupby('r')|length", "l|select('odd')", "(l|select('odd'))|list", "d|dictsort|first", "d|items|list", "self", "loop", "caller", "s is sameas s", "1 is sameas 1",
    "foo()", "none()", "raise_exception('no')", "raise_exception(1)", "s|nothing", "s is nothing", "f|int", "'1_0'|int", "' 42 '|int", "'0x1f'|int(0, 16)", "'x'|int(default=3)",
    "'nan'|float", "'1e3'|float", "2.5|round", "3.5|round", "2.675|round(2)", "1234|round(-2)", "[0.1]|sum", "'a\\nb\\n\\nc'|indent", "'<b>'|e", "'<b>'|safe", "'<b>'|escape ~ '<'",
    "'<b>'|safe + '<'", "'a b&c/d'|urlencode", "{'a': 1, 'b': 'x y'}|urlencode", "'x y  z'|wordcount", "'hello world foo'|truncate(9)",
]


def sources():
    for name, arguments in TEXT_METHODS.items():
        for text in TEXTS:
            for given in arguments:
                yield f"{{{{ {text}.{name}({given}) }}}}"
    for name, arguments in FILTERS.items():
        for value in VALUES:
            for given in arguments:
                yield f"{{{{ {value}|{name}{'(' + given + ')' if given else ''} }}}}"
                if name in ("batch", "groupby", "items", "map", "reject", "rejectattr", "reverse", "select", "selectattr", "slice", "unique"):
                    yield f"{{{{ {value}|{name}{'(' + given + ')' if given else ''}|list }}}}"
    for test in TESTS:
        for value in VALUES:
            yield f"{{{{ {value} is {test} }}}}"
    for operator in OPERATORS:
        for left in OPERANDS:
            for right in OPERANDS:
                yield f"{{{{ {left} {operator} {right} }}}}"
    for other in OTHERS:
        yield f"{{{{ {other} }}}}"


def cases():
    for source in sources():
        yield "methods", source, VARIABLES
