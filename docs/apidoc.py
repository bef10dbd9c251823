"What the site says of a function or class: its signature, its docstring and a table of its docments."
import ast, importlib, inspect, re, textwrap
from dataclasses import is_dataclass
from fastcore.docments import docments

CODE = re.compile(r"(`+[^`]+`+)")


def escape(text):
    "Plain text as Markdown that shows just this text, but for its code spans."
    parts = CODE.split(" ".join(str(text).split()))
    return "".join(p if i % 2 else re.sub(r"([\\<*_\[\]{}$])", r"\\\1", p) for i, p in enumerate(parts))


def cell(text): return text.replace("|", "\\|")


def code(text): return f"`{text}`" if text else ""


def type_name(t):
    "A type as its author wrote it, without the modules that it lives in."
    if t is inspect.Parameter.empty: return ""
    if t is None or t is type(None): return "None"
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", t if isinstance(t, str) else inspect.formatannotation(t)).strip("'").replace("numpy.", "np.").replace(" | ", "|").replace("|", " | ")


def default_name(v): return getattr(v, "__name__", None) or repr(v)


def name_of(k, p):
    "A parameter with its stars and its default."
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(p.kind, "")
    return f"{stars}{k}" + ("" if p.default is p.empty else f"={default_name(p.default)}")


def signature_of(f, name):
    "The call, wrapped at 84 columns."
    parts, star = [], False
    for k, p in parameters(f):
        if p.kind == p.KEYWORD_ONLY and not star: parts.append("*")
        star = star or p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        parts.append(name_of(k, p))
    line = f"{name}({', '.join(parts)})"
    if len(line) <= 84: return line
    body = textwrap.wrap(", ".join(p.replace(" ", "\0") for p in parts), 80, break_long_words=False, break_on_hyphens=False)
    return f"{name}(\n" + "\n".join("    " + l for l in body).replace("\0", " ") + "\n)"


def parameters(f): return [(k, p) for k, p in inspect.signature(f).parameters.items() if k not in ("self", "cls")]


def table(f):
    "Docments as a Markdown table, or one line where there is only what is returned; empty where nothing is said."
    doc = docments(f, full=True, returns=True)
    rows = [(code(name_of(k, p)), code(type_name(p.annotation)), escape(doc[k].docment or "") if k in doc else "") for k, p in parameters(f)]
    back = None if inspect.isclass(f) else doc.get("return")
    kind = code(type_name(back.anno)) if back else ""
    if back and (back.docment or kind): rows.append(("*returns*", kind, escape(back.docment or "")))
    if not any(r[1] or r[2] for r in rows): return ""
    if len(rows) == 1 and rows[0][0] == "*returns*": return " ".join(["Returns", *filter(None, rows[0][1:])]) + "."
    return "\n".join(["| parameter | type | what it is |", "| --- | --- | --- |", *("| " + " | ".join(map(cell, r)) + " |" for r in rows)])


def docstring(o):
    "First sentence in italics, then the rest."
    first, _, rest = (inspect.getdoc(o) or "").partition("\n\n")
    return "\n\n".join([f"*{escape(first)}*" if first else "", *map(escape, rest.split("\n\n"))]).strip()


def target(module_name, name, o):
    "Where links to `o` lead; Sphinx does not tell capitals apart, so a class says that it is one."
    return f"{module_name}.{name}" + ("-class" if inspect.isclass(o) else "")


def entry(target, name, o, level):
    "One heading with what is known of `o`, a function, property or class."
    f = o.fget if isinstance(o, property) else o.__func__ if isinstance(o, (classmethod, staticmethod)) else o
    said = [f"({target})=\n{'#'*level} `{name}`"]
    takes = inspect.isfunction(f) and not isinstance(o, property) or is_dataclass(f) or inspect.isclass(f) and inspect.isfunction(vars(f).get("__init__"))
    if takes: said.append(f"```python\n{signature_of(f, name)}\n```")
    said.append(docstring(f))
    if takes or isinstance(o, property): said.append(table(f))
    return "\n\n".join(s for s in said if s)


def methods(cls, written):
    "(name, object) of what a class defines and describes in its own cell; what is patched in later has a cell of its own."
    for k, v in vars(cls).items():
        if k not in written: continue
        f = v.fget if isinstance(v, property) else getattr(v, "__func__", v)
        if inspect.isfunction(f) and inspect.getdoc(f) and (not k.startswith("_") or k in ("__call__", "__getitem__", "__enter__", "__iter__")): yield k, v


def patched(node):
    "(class, name) where a function is patched into a class, else None."
    for d in node.decorator_list:
        call = d if isinstance(d, ast.Call) else None
        if getattr(call.func if call else d, "id", "") not in ("patch", "patch_to"): continue
        name = next((k.value.value for k in call.keywords if k.arg == "nm"), node.name) if call else node.name
        return node.args.args[0].annotation.id, name


def defined(source, module):
    "(name, object) of the public functions and classes that a cell defines, patched ones as `Class.name`."
    for node in ast.parse(source).body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): continue
        to = None if isinstance(node, ast.ClassDef) else patched(node)
        if to: yield ".".join(to), inspect.getattr_static(getattr(module, to[0]), to[1])
        elif not node.name.startswith("_"): yield node.name, getattr(module, node.name)


def written_in(source, name):
    "Names of the functions in the body of a class."
    cls = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == name)
    return {n.name for n in cls.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))} | {t.id for n in cls.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}


def describe(source, module_name, level):
    "Markdown of all that an exported cell defines, methods one heading deeper."
    module, said = importlib.import_module(module_name), []
    for name, o in defined(source, module):
        said.append(entry(target(module_name, name, o), name, o, level))
        if inspect.isclass(o): said += [entry(target(module_name, f"{name}.{k}", v), f"{name}.{k}", v, level + 1) for k, v in methods(o, written_in(source, name))]
    return "\n\n".join(said)
