"Every promised name (contract.txt) can be imported from everywhere it should, with the signature of the contract."

import ast, importlib, inspect, re, textwrap
from pathlib import Path
import pytest

LINES = [l for l in (Path(__file__).parent / "contract.txt").read_text().splitlines() if l and not l.startswith("#")]
NAMES = [l for l in LINES if not l.startswith("interp-kit ")]
COMMANDS = [l.split()[1:] for l in LINES if l.startswith("interp-kit ")]


def split(line):
    "(module, [name, …], signature or '')"
    module, name = line.split(" ", 1)
    name, _, params = name.partition("(")
    return module, name.split("."), f"({params}" if params else ""


def find(module, name):
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as e:
        pytest.fail(f"{name} is promised, but cannot be imported from {module}: {e}")


def set_on_self(cls):
    "Names that a class or its bases assign to `self`."
    trees = [
        ast.parse(textwrap.dedent(inspect.getsource(c))) for c in cls.__mro__ if c.__module__.startswith("interp_kit")
    ]
    return {
        n.attr
        for t in trees
        for n in ast.walk(t)
        if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store) and ast.unparse(n.value) == "self"
    }


@pytest.mark.parametrize("line", NAMES)
def test_promised_name(line):
    import interp_kit.all as door

    module, (name, *member), params = split(line)
    o = find(module, name)
    if module.startswith("interp_kit."):
        for other in ("interp_kit.all", ".".join(module.split(".")[:2])):
            assert find(other, name) is o, f"{other}.{name} is not {module}.{name}"
        assert name in door.__all__, f"`from interp_kit.all import *` does not bring {name}"
    if member:
        there = (
            hasattr(o, member[0]) or member[0] in getattr(o, "__dataclass_fields__", ()) or member[0] in set_on_self(o)
        )
        assert there, f"{name}.{member[0]} is promised, but {name} has no such method or attribute"
    if params:
        same_signature(".".join([name, *member]), getattr(o, member[0]) if member else o, params, bool(member))


def same_signature(name, f, params, member):
    "What is promised can be written in a call, and means the same."
    scope = {}
    exec(f"def f{params}: pass", scope)
    want, have = list(inspect.signature(scope["f"]).parameters.values()), dict(inspect.signature(f).parameters)
    if member and not inspect.ismethod(f):
        have.pop(next(iter(have)))  # self
    said, free = f"{name}{inspect.signature(f)} is promised as {name}{params}", any(
        p.kind == p.VAR_POSITIONAL for p in have.values()
    )
    for i, p in enumerate(want):
        if p.kind == p.VAR_KEYWORD:
            assert any(q.kind == p.kind for q in have.values()), f"{said}: it takes no {p}"
            continue
        assert p.name in have, f"{said}: it has no {p.name}"
        q = have[p.name]
        if p.kind == p.KEYWORD_ONLY:
            assert q.kind == p.kind, f"{said}: {p.name} is not keyword-only"
        elif not (free and q.kind == q.KEYWORD_ONLY):
            assert (
                list(have).index(p.name) == i and q.kind == p.kind
            ), f"{said}: {p.name} is not its parameter number {i + 1}"
        if p.default is ...:
            assert q.default is not q.empty, f"{said}: {p.name} has no default"
        elif p.default is not p.empty:
            assert (
                type(q.default) in (type(p.default), int, float) and q.default == p.default
            ), f"{said}: the default of {p.name} is {q.default!r}"
    more = [
        q.name
        for q in have.values()
        if q.name not in {p.name for p in want}
        and q.default is q.empty
        and q.kind not in (q.VAR_KEYWORD, q.VAR_POSITIONAL)
    ]
    assert not more, f"{said}: it also demands {', '.join(more)}"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_promised_command(words, capsys):
    from interp_kit.cli import main

    # words before the first option are the command
    at = next((i for i, w in enumerate(words) if w.startswith("-")), len(words))
    with pytest.raises(SystemExit) as e:
        main([*words[:at], "--help"])
    text = capsys.readouterr().out
    assert not e.value.code and all(
        re.search(rf"(?<![\w-]){re.escape(w)}(?![\w-])", text) for w in words
    ), f"the help of interp-kit {' '.join(words[:at])} lacks {[w for w in words if w not in text]}"


@pytest.mark.parametrize(
    "params,why",
    [
        ("(x, y=2)", ""),
        ("(x)", ""),
        ("(x, y=..., *, z=3)", ""),
        ("(a)", "has no a"),
        ("(y=2)", "number 1"),
        ("(x, y=3)", "default of y is 2"),
        ("(x, *, y=2)", "not keyword-only"),
        ("(x, y=2, z=3)", "number 3"),
        ("(x, **kw)", "takes no"),
        ("(y)", "number 1"),
        ("()", "demands x"),
        ("(x=1)", "default of x"),
    ],
)
def test_the_comparison_notices(params, why):
    def f(x, y=2, *, z=3):
        pass

    if not why:
        return same_signature("f", f, params, False)
    with pytest.raises(AssertionError, match=why):
        same_signature("f", f, params, False)
