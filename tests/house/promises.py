"What interp_kit promises: names in the contract, in `all`, in a guide, or taken by another room. Read, never imported."
import ast, json, re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT/"interp_kit"
FILES = sorted(f for f in PACKAGE.rglob("*.py") if f.name != "_modidx.py" and f != PACKAGE/"__init__.py")
HELD = {"ActivationSums", "CallStats", "ChannelSums", "ProbabilityLoss", "TrainingSteps"} # classes that exported learners hold by name
CONTRACT = Path(__file__).with_name("contract.txt") # without it, `all` stands for the contract


def module_of(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def package_of(file): return module_of(file) if file.name == "__init__.py" else module_of(file)[:-1]


def room_of(file): return module_of(file)[1]


@cache
def tree(file): return ast.parse(file.read_text())


def origin(node, package):
    "Absolute name of the module that a `from … import` takes from."
    base = package[:len(package) - node.level + 1] if node.level else ()
    return ".".join([*base, *([node.module] if node.module else [])])


def taken(file):
    "(module, name, local name) of everything that a file imports by name from the package."
    for n in ast.walk(tree(file)):
        if not isinstance(n, ast.ImportFrom): continue
        module = origin(n, package_of(file))
        if module.split(".")[0] == "interp_kit": yield from ((module, a.name, a.asname or a.name) for a in n.names)


def is_patched(node): return any("patch" in ast.unparse(d) for d in node.decorator_list)


def functions(file):
    kinds = ast.FunctionDef, ast.AsyncFunctionDef
    return [n for n in tree(file).body if isinstance(n, kinds) and not is_patched(n)]


def public_names(file):
    "Functions and classes at top level without an underscore; a patched function belongs to its class."
    classes = [n for n in tree(file).body if isinstance(n, ast.ClassDef)]
    return [n for n in functions(file) + classes if not n.name.startswith("_")]


def contract_names():
    "First names of the lines `module Name[.method]` and `module name(signature)`."
    text = CONTRACT.read_text() if CONTRACT.exists() else ""
    return set(re.findall(r"^interp_kit\S* (\w+)", text, re.M))


def guide_names():
    "Words in the code of the guides, the README and the index: fenced, between backticks or in a code cell."
    texts = [f.read_text() for f in [*(ROOT/"docs/guides").glob("*.md"), ROOT/"README.md"]]
    cells = json.loads((ROOT/"nbs/index.ipynb").read_text())["cells"]
    texts += ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    for text in texts: code += re.findall(r"```.*?```|`[^`\n]+`", text, re.S)
    return set(re.findall(r"[A-Za-z_]\w*", "\n".join(code)))


def room_names():
    "(room, name) that `all`, another room or a command of settings.ini takes."
    pairs = {(module.split(".")[1], name) for f in FILES for module, name, _ in taken(f)
             if module.count(".") and module.split(".")[1] != room_of(f)}
    return pairs | set(re.findall(r"interp_kit\.(\w+)[\w.]*:(\w+)", (ROOT/"settings.ini").read_text()))


def returned_names():
    "Classes that a public function or method says it returns: whoever calls it sees them."
    found = (n for f in FILES for n in ast.walk(tree(f)) if isinstance(n, ast.FunctionDef) and not n.name.startswith("_"))
    return set(re.findall(r"[A-Z]\w+", " ".join(ast.unparse(n.returns) for n in found if n.returns is not None)))


@cache
def promises(): return contract_names() | guide_names() | returned_names(), room_names()


def is_promised(room, name):
    names, pairs = promises()
    return name in names or (room, name) in pairs
