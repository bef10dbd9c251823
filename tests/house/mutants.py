"""Four planted faults, each of which a test must notice; exits 1 if one survives.

Run by hand, `python tests/house/mutants.py [name …]`, in about two minutes.

Each looks for its function by name anywhere in interp_kit/, changes the generated module, runs the test
files that should fail, and puts the module back as it was.
Do not work on the package, and run no other tests in the same tree, while it runs."""

import ast, os, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MUTANTS = {  # name: (function, what stands there, what is put there instead, test files, which of their tests)
    "excess": (
        "excess_p",
        "seen >= expected + 1",
        "seen >= expected",
        ["tests/findings/test_silence_and_truth.py"],
        "excess",
    ),
    "wilson": ("wilson", "(1 + level)/2", "level", ["tests/oracles/test_intervals_oracle.py"], "wilson"),
    "conductance": (
        "_layer_conductance",
        "o.n_steps + 1",
        "o.n_steps",
        ["tests/attribution/test_saliency_oracle.py"],
        "float64",
    ),
    "gradients": ("_keep_params", "p.grad = grad", "pass", ["tests/capture/test_untouched.py"], "nothing_changes"),
}


def find(function, old):
    "(file, text, start, end) of the one function of this name in the package that holds `old`."
    found = []
    for f in sorted((ROOT / "interp_kit").rglob("*.py")):
        text = f.read_text()
        for n in ast.walk(ast.parse(text)) if f"def {function}(" in text else ():
            if not isinstance(n, ast.FunctionDef) or n.name != function:
                continue
            lines = text.splitlines(keepends=True)
            start, end = (len("".join(lines[:k])) for k in (n.lineno - 1, n.end_lineno))
            if old in text[start:end]:
                found.append((f, text, start, end))
    if len(found) != 1:
        sys.exit(f"{len(found)} functions named {function} hold {old!r}: mend the list of mutants.")
    return found[0]


def passes(tests, which):
    "Whether these tests pass; ends the program if they do not run at all."
    done = subprocess.run(
        [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests, "-k", which],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if done.returncode not in (0, 1):
        sys.exit(f"{', '.join(tests)} did not run.\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def survives(function, old, new, tests, which):
    "Whether these tests still pass with the fault in place."
    if not passes(tests, which):
        sys.exit(f"{', '.join(tests)} fail without the fault.")
    f, text, start, end = find(function, old)
    body = text[start:end]
    if body.count(old) != 1:
        sys.exit(f"{function} holds {old!r} {body.count(old)} times: mend the list of mutants.")
    try:
        f.write_text(text[:start] + body.replace(old, new) + text[end:])
        return passes(tests, which)
    finally:
        f.write_text(text)


if __name__ == "__main__":
    alive = []
    for name in sys.argv[1:] or MUTANTS:
        if survives(*MUTANTS[name]):
            alive.append(name)
        print(f"{name:<12} {MUTANTS[name][0]:<20} {'SURVIVED' if name in alive else 'killed'}", flush=True)
    sys.exit(bool(alive))
