"""House numbers: `python tests/house/numbers.py [WORD …]` prints what is, may be and shall be; with words, where.
`test_numbers.py` holds the limits. Whoever takes something away lowers its number in LIMITS, in the same change."""
import ast, io, json, re, sys, tokenize
from collections import Counter
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Callable

if __name__ == "__main__": sys.path[0] = str(Path(__file__).parents[1]) # this folder would hide Python's own `numbers`
from house.promises import (FILES, HELD, PACKAGE, ROOT, functions, is_promised, module_of, public_names,
                            room_of, taken, tree)

WIDTH, MODULE, CELL, TERMS, FROM_ONE_FILE = 120, 450, 40, 3, 3
SLACK = 1.15 # a room past this many times its budget is a reason to stop

BUDGETS = { # DESIGN 2: lines of a group of rooms
    "floor 0": (2100, "core findings plots files page"), "predictions": (4700, "predictions"),
    "attribution": (3600, "attribution"), "internals": (4300, "internals"), "interpret": (2800, "interpret"),
    "features, training, demo": (4200, "features training demo"), "doors": (1800, "launchers cli all"),
    "data": (1600, "data"), "widgets": (1600, "widgets"), "report": (3800, "report"), "bias": (2800, "bias")}
LOWER = list(BUDGETS)[:7] # together 23,500

CORE = ("core.py", "core/")
ONE_PLACE = [ # what it is, how one sees it in a line, and the files where it may stand
    ("read a vocabulary", r"getattr\(.*['\"]vocab['\"]", CORE),
    ("split a batch", r"getattr\(.*['\"]n_inp['\"]|\[:\w+\.n_inp\]|max\(1, len\(\w+\) - 1\)", CORE),
    ("unwrap an output", r"['\"]logits['\"]|\.logits\b", CORE),
    ("tell a loss by its name", r"['\"](crossentropy|nll|bce|mse|withlogits|binary\w*|multilabel\w*)['\"]( not)? in |"
                                r"in \(['\"](nll|bce|mse|gaussian|poisson)['\"]", CORE),
    ("follow loss.func", r"(has|get)attr\((?!metric)\w+, ['\"]func['\"]", CORE),
    ("is it a Learner", r"isinstance\(\w+, Learner\)|hasattr\(\w+, ['\"](dls|get_preds|recorder|cbs)['\"]\)|"
                        r"getattr\(\w+, ['\"]dls['\"], None\)", CORE),
    ("register hooks", r"\.register_(forward|full_backward|module)\w*\(", CORE),
    ("say how many more", r"\{[^{}]+\} (more|others)\b", CORE),
    ("work out a chunk", r"\b(2\*\*\d+|\d+_000|_[A-Z]+|budget)//|max\(1, \w+//", CORE),
    ("work out an interval", r"def _?(wilson|student\w*|mean_interval)\(|NormalDist|\bt\.ppf\(|\b1\.96\b", CORE),
    ("keep and restore state", r"getstate\(|get_rng_state|\.training = (?!False)|"
                               r"def _?kept_attributes", CORE),
    ("word an error", r"type\(e\)\.__name__", CORE)]

LIMITS = { # what is more than shall be: lower a number with whatever is taken away, never raise one
    "lines over 120 columns in interp_kit": 1654,
    "joined statements in interp_kit": 230,
    "lines over 120 columns in tests": 1267,
    "joined statements in tests": 1464,
    "lines over 120 columns in bench": 359,
    "joined statements in bench": 288,
    "exported cells over 40 lines": 128,
    "conditions of more than three terms": 34,
    "ternaries in ternaries": 49,
}


# What is counted: each function returns {place: how many}; a place is a file, or file:line.

def name_of(file): return str(file.relative_to(ROOT))


def at(file, node): return f"{name_of(file)}:{node if isinstance(node, int) else node.lineno}"


@cache
def lines_of(file): return file.read_text().splitlines()


def room_lines(rooms):
    return Counter({name_of(f): len(lines_of(f)) for f in FILES if room_of(f) in rooms.split()})


def long_modules():
    "Modules of more than 450 lines."
    return Counter(f"{name_of(f)} ({len(lines_of(f))})" for f in FILES if len(lines_of(f)) > MODULE)


def places_of(pattern, allowed):
    "Lines of code, not of comments, that match, outside the allowed files."
    files = [f for f in FILES if not str(f.relative_to(PACKAGE)).startswith(allowed)]
    return Counter(at(f, i) for f in files for i, l in enumerate(lines_of(f), 1)
                   if re.search(pattern, l) and not l.lstrip().startswith("#"))


def private_imports():
    "{(file, module): private names that the file takes from it}"
    return Counter((name_of(f), module) for f in FILES for module, name, _ in taken(f) if name.startswith("_"))


def private_taken():
    "Private names that a file takes from others."
    res = Counter()
    for (file, _), n in private_imports().items(): res[file] += n
    return res


def private_bundles():
    "Pairs of files of which one takes more than three private names from the other."
    return Counter(f"{file} <- {module} ({n})" for (file, module), n in private_imports().items() if n > FROM_ONE_FILE)


def unpromised():
    "Public functions and classes that no contract, `all`, guide or other room names."
    names = ((f, n) for f in FILES for n in public_names(f) if n.name not in HELD)
    return Counter(f"{at(f, n)} {n.name}" for f, n in names if not is_promised(room_of(f), n.name))


def used_once():
    "Private functions at top level whose name stands at one place in the package, apart from where they are defined."
    defined = [(f, n) for f in FILES for n in functions(f) if n.name.startswith("_")]
    said = Counter(w for f in FILES for w in re.findall(r"\b_\w+", f.read_text()))
    twice = Counter(n.name for _, n in defined)
    return Counter(f"{at(f, n)} {n.name}" for f, n in defined if said[n.name] - twice[n.name] == 1)


def twice_in_a_room():
    "Files that have the name of another file of their room, or of the room."
    n = Counter((room_of(f), f.stem) for f in FILES)
    own = lambda f: len(module_of(f)) > 2 and f.stem == room_of(f)
    return Counter(name_of(f) for f in FILES if f.stem != "__init__" and (n[room_of(f), f.stem] > 1 or own(f)))


def in_several_rooms():
    "Names of files that stand in several rooms, so that `from .weights import` does not say which."
    rooms = {(f.stem, room_of(f)) for f in FILES if len(module_of(f)) > 2 and f.stem != "__init__"}
    n = Counter(stem for stem, _ in rooms)
    return Counter({f"{stem}: {', '.join(sorted(r for s, r in rooms if s == stem))}": 1 for stem in n if n[stem] > 1})


def sources(folder): return FILES if folder == "interp_kit" else sorted((ROOT/folder).rglob("*.py"))


def wide_lines(folder):
    return Counter(at(f, i) for f in sources(folder) for i, l in enumerate(lines_of(f), 1) if len(l) > WIDTH)


TWO_WORDS = re.compile(r"\s*[\w.]+ = [\w.]+; [\w.]+ = [\w.]+\s*(#.*)?") # `a = x; b = y`


def joined(folder):
    "Semicolons between statements, but for lines `a = x; b = y` with one word (dots allowed) on each side."
    res = Counter()
    for f in sources(folder):
        text = f.read_text()
        if ";" not in text: continue
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        marks = [t for t in tokens if t.type == tokenize.OP and t.string == ";"]
        res.update(at(f, t.start[0]) for t in marks if not TWO_WORDS.fullmatch(t.line.rstrip()))
    return res


def notebooks(): return [f for f in sorted((ROOT/"nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in f.parts]


def long_cells():
    "Exported cells of more than 40 lines."
    cells = ((f, "".join(c["source"])) for f in notebooks() for c in json.loads(f.read_text())["cells"])
    return Counter(f"{name_of(f)}: {text.splitlines()[1][:50]}" for f, text in cells
                   if text.startswith("#| export") and len(text.splitlines()) > CELL)


def same_numbers():
    "Notebooks that share their number with another one of the folder."
    number = lambda f: (f.parent, f.name.split("_")[0])
    n = Counter(map(number, notebooks()))
    return Counter(name_of(f) for f in notebooks() if n[number(f)] > 1)


def long_conditions():
    "Conditions of more than three terms."
    terms = lambda n: sum(map(terms, n.values)) if isinstance(n, ast.BoolOp) else 1
    return Counter(at(f, n.test) for f in FILES for n in ast.walk(tree(f))
                   if isinstance(n, (ast.If, ast.IfExp, ast.While)) and terms(n.test) > TERMS)


def nested_ternaries():
    return Counter(at(f, n) for f in FILES for n in ast.walk(tree(f)) if isinstance(n, ast.IfExp)
                   and any(isinstance(o, ast.IfExp) for o in (n.body, n.orelse, n.test)))


@dataclass(frozen=True)
class Measure:
    name:str # as LIMITS calls it
    goal:int|None # what shall be; None: no goal stands
    places:Callable # () -> {place: how many}

def measures():
    yield from (Measure(f"lines of {k}", goal, partial(room_lines, rooms)) for k, (goal, rooms) in BUDGETS.items())
    yield Measure("lines of the lower floors", 23500, partial(room_lines, " ".join(BUDGETS[k][1] for k in LOWER)))
    yield Measure("modules over 450 lines", 0, long_modules)
    for what, pattern, allowed in ONE_PLACE:
        yield Measure(f"places that {what}", 0, partial(places_of, pattern, allowed))
    yield Measure("private names taken from another file", None, private_taken)
    yield Measure("more than three private names from one file", 0, private_bundles)
    yield Measure("public names outside promises", 0, unpromised)
    yield Measure("private helpers used once", 350, used_once)
    yield Measure("file names twice in a room", 0, twice_in_a_room)
    yield Measure("file names in several rooms", None, in_several_rooms)
    for folder in ("interp_kit", "tests", "bench"):
        yield Measure(f"lines over 120 columns in {folder}", 0, partial(wide_lines, folder))
        yield Measure(f"joined statements in {folder}", 0, partial(joined, folder))
    yield Measure("exported cells over 40 lines", 0, long_cells)
    yield Measure("notebooks with a number that another has", 0, same_numbers)
    yield Measure("conditions of more than three terms", 0, long_conditions)
    yield Measure("ternaries in ternaries", 0, nested_ternaries)


def limit_of(measure):
    "What may be: the number in LIMITS, for lines of a room its budget with slack; None: no limit."
    if measure.name in LIMITS: return LIMITS[measure.name]
    if measure.goal is None: return None
    return int(SLACK*measure.goal) if measure.name.removeprefix("lines of ") in BUDGETS else measure.goal


def show(n): return "" if n is None else f"{n:,}"


def main(words):
    print(f"{'':48}{'now':>8}{'may be':>8}{'shall be':>10}")
    for m in measures():
        places, limit, hint = m.places(), limit_of(m), ""
        now = sum(places.values())
        if limit is not None and now > limit: hint = "  <- over its limit"
        elif m.name in LIMITS and now < limit: hint = "  <- lower its limit"
        print(f"{m.name:48}{now:8,}{show(limit):>8}{show(m.goal):>10}{hint}")
        if not any(w in m.name for w in words): continue
        for place, n in sorted(places.items(), key=lambda o: (-o[1], o[0])): print(f"    {n:6,}  {place}")


if __name__ == "__main__": main(sys.argv[1:])
