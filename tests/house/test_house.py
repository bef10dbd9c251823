"The house: who may import whom, and what every public name must have."
import ast, importlib, inspect, re, subprocess, sys
import pytest
from house.promises import FILES, PACKAGE, ROOT, is_promised, module_of, package_of

FLOORS = {0: ["core", "files", "plots", "findings", "page"], 1: ["predictions", "attribution", "internals", "demo"],
          2: ["interpret", "features", "data"], 3: ["bias", "training", "widgets"], 4: ["report", "launchers"],
          5: ["cli", "all"]}
FLOOR = {room: n for n, rooms in FLOORS.items() for room in rooms}
GROUND = set(FLOORS[0])
LAZY_ROOMS = {*GROUND, "predictions", "launchers", "cli"}
HEAVY = {"fastai", "sklearn", "scipy"}


def may_import(room, other):
    "From a room to itself, to lower floors, and on floor 0 from all but core to one another."
    return room == other or FLOOR[other] < FLOOR[room] or {room, other} <= GROUND and room != "core"


def imports(tree, package, top_only=False):
    "Absolute names that a module imports, with whether the import is at top level."
    inside = {n for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.Lambda)) for n in ast.walk(f)}
    typing_only = {n for f in ast.walk(tree) if isinstance(f, ast.If) and "TYPE_CHECKING" in ast.dump(f.test) for n in ast.walk(f)}
    for n in ast.walk(tree):
        if n in typing_only or top_only and n in inside: continue
        if isinstance(n, ast.Import): yield from (a.name for a in n.names)
        if isinstance(n, ast.ImportFrom):
            base = list(package)[:len(package) - n.level + 1] if n.level else []
            yield ".".join([*base, *([n.module] if n.module else [])])


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_only_from_lower_floors(file):
    room = module_of(file)[1]
    for name in imports(ast.parse(file.read_text()), package_of(file)):
        parts = name.split(".")
        if parts[0] != "interp_kit" or len(parts) < 2: continue
        other = parts[1]
        assert may_import(room, other), f"{room} (floor {FLOOR[room]}) imports {other} (floor {FLOOR[other]})"


@pytest.mark.parametrize("file", [f for f in FILES if module_of(f)[1] in LAZY_ROOMS], ids=lambda f: str(f.relative_to(PACKAGE)))
def test_low_rooms_import_fastai_sklearn_scipy_only_inside_functions(file):
    top = {n.split(".")[0] for n in imports(ast.parse(file.read_text()), package_of(file), top_only=True)}
    assert not top & (HEAVY | ({"torch", "numpy", "matplotlib", "pandas"} if module_of(file)[1] == "cli" else set()))


def test_no_circles_inside_a_package():
    graph = {}
    for f in FILES:
        if f.name == "__init__.py": continue
        me = ".".join(module_of(f))
        graph[me] = {n for n in imports(ast.parse(f.read_text()), package_of(f)) if n.startswith("interp_kit.")}
    done, path = set(), []
    def visit(m):
        assert m not in path, f"circle: {' -> '.join(path[path.index(m):] + [m])}"
        if m in done or m not in graph: return
        path.append(m)
        for o in graph[m]: visit(o)
        path.pop(); done.add(m)
    for m in graph: visit(m)


def test_star_imports_only_at_the_doors():
    for f in FILES:
        if f.name in ("__init__.py", "all.py"): continue
        assert not any(isinstance(n, ast.ImportFrom) and n.names[0].name == "*" for n in ast.walk(ast.parse(f.read_text()))), f


def test_importing_predictions_brings_no_fastai_and_the_package_brings_nothing():
    code = ("import sys; import interp_kit; assert not {'torch', 'numpy'} & set(sys.modules), 'the package imports something'; import interp_kit.predictions;"
            "bad = {'fastai', 'sklearn', 'scipy', 'matplotlib', 'pandas'} & set(sys.modules); assert not bad, bad")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def public():
    "(name, object) of every public function, class and method."
    seen = set()
    for f in FILES:
        if f.name in ("__init__.py", "all.py"): continue
        mod = importlib.import_module(".".join(module_of(f)))
        for name in mod.__all__:
            o = getattr(mod, name)
            if getattr(o, "__module__", None) != mod.__name__ or id(o) in seen: continue
            seen.add(id(o)); yield f"{mod.__name__}.{name}", o
            if inspect.isclass(o):
                for k, v in vars(o).items():
                    v = v.__func__ if isinstance(v, classmethod) else v.fget if isinstance(v, property) and v.fget.__name__ != "<lambda>" else v
                    if inspect.isfunction(v) and not k.startswith("_"): yield f"{mod.__name__}.{name}.{k}", v


PUBLIC = list(public())
PROMISED = [(n, o) for n, o in PUBLIC if is_promised(n.split(".")[1], n.removeprefix(inspect.getmodule(o).__name__).split(".")[1])]


@pytest.mark.parametrize("name,o", PROMISED, ids=[n for n, _ in PROMISED])
def test_promised_names_have_a_docstring_and_typed_docments(name, o):
    from fastcore.docments import docments
    assert inspect.getdoc(o), f"{name} has no docstring"
    if inspect.isclass(o) and issubclass(o, (BaseException, list)): return
    f = o.__init__ if inspect.isclass(o) else o
    if inspect.isclass(o) and "__dataclass_fields__" in vars(o): return check_fields(name, o)
    if inspect.isclass(o) and "__init__" not in vars(o): return
    doc = docments(f, full=True, returns=False, eval_str=False)
    for k, p in inspect.signature(f, follow_wrapped=False).parameters.items():
        if k in ("self", "cls") or p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL): continue
        if getattr(f, "__delwrap__", None) is not None and p.kind == p.KEYWORD_ONLY: continue
        if owner_protocol(name): continue
        assert doc[k].docment, f"{name}({k}) has no comment"
        assert p.annotation is not p.empty, f"{name}({k}) has no type"


def owner_protocol(name): return name.split(".")[-2] == "Features" or name.split(".")[-2] == "ProbabilityLoss" and not name.endswith("__init__")


def check_fields(name, o):
    source = inspect.getsource(o)
    for k in o.__dataclass_fields__: assert re.search(rf"^\s+{k}\s*:.+#", source, re.M), f"{name}.{k} has no comment"


CALLED = [n for n, o in PUBLIC if inspect.isfunction(o) and len(n.split(".")) <= 4 or inspect.isclass(o) and "__dataclass_fields__" not in vars(o) and not issubclass(o, BaseException)]


@pytest.mark.parametrize("name", CALLED)
def test_public_names_are_used_in_a_test(name):
    own = name.split(".")[-1]
    text = SOURCES()
    assert re.search(rf"\b{own}\b", text), f"{name} appears in no test cell and no test file"


def SOURCES(cache={}):
    "Code of test cells of all notebooks and of all test files."
    if not cache:
        import json
        cells = []
        for nb in (ROOT/"nbs").rglob("*.ipynb"):
            cells += ["".join(c["source"]) for c in json.loads(nb.read_text())["cells"] if c["cell_type"] == "code" and not "".join(c["source"]).startswith(("#| export", "#| default_exp"))]
        cache["text"] = "\n".join(cells + [f.read_text() for f in (ROOT/"tests").rglob("test_*.py") if f.name != "test_house.py"])
    return cache["text"]


def test_no_stubs():
    for f in FILES:
        for n in ast.walk(ast.parse(f.read_text())):
            assert not (isinstance(n, ast.Raise) and "NotImplementedError" in ast.dump(n)), f
            assert not (isinstance(n, ast.ExceptHandler) and n.type is None), f"bare except in {f}"
