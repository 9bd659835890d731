"""Jinja2 configured as transformers 5.23.0 does in `_cached_compile_jinja_template` (utils/chat_template_utils.py), with the
day given instead of the clock's."""

import datetime
import json

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
import jinja2.utils

assert jinja2.__version__ == "3.1.6", jinja2.__version__

DATE = datetime.datetime(2024, 7, 6)


class Generation(jinja2.ext.Extension):
    """`{% generation %}` is a call block around its body: a scope of its own, whose text comes out as it stands."""

    tags = {"generation"}

    def parse(self, parser):
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_support"), [], [], body).set_lineno(lineno)

    @jinja2.pass_eval_context
    def _support(self, context, caller):
        return caller()


class Raised(jinja2.exceptions.TemplateError):
    """What `raise_exception` throws; transformers throws a plain TemplateError."""


def raise_exception(message):
    raise Raised(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class TemplateDict:
    def __call__(self, *args, **kwargs):
        return dict(*args, **kwargs)

    def fromkeys(self, *args, **kwargs):
        return dict.fromkeys(*args, **kwargs)


class TemplateNamespace(jinja2.utils.Namespace):
    def __init__(*args, **kwargs):
        self, args = args[0], args[1:]
        attrs = dict(*args, **kwargs)
        for name in attrs:
            TemplateNamespace._check_name(name)
        jinja2.utils.Namespace.__init__(self, attrs)

    def __setitem__(self, name, value):
        TemplateNamespace._check_name(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def _check_name(name):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"underscore-prefixed attribute {name!r} on a namespace")


def environment(day=True):
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    if day:
        env.globals["strftime_now"] = DATE.strftime
    env.globals["dict"] = TemplateDict()
    env.globals["namespace"] = TemplateNamespace
    return env


def render(source, variables):
    """{"text": ...}, or {"error": kind}: "load" (it does not compile), "raised" (raise_exception) or "render"."""
    try:
        template = environment().from_string(source)
    except Exception:  # noqa: BLE001 - whatever Jinja2 or Python's compiler says
        return {"error": "load"}
    try:
        return {"text": template.render(**variables)}
    except Raised as raised:
        return {"error": "raised", "message": str(raised)}
    except Exception:  # noqa: BLE001
        return {"error": "render"}
