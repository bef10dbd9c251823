"Planted faults of the rooms internals, training and features: whether each is found in 20 seeds, what else is said, and how often clean sets speak."
import importlib, pkgutil
from pathlib import Path
from scipy.stats import binomtest

PARTS = sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if m.name.startswith("planted_"))
SEEDS, SETS = 20, 400 # of each planted fault; of sound sets of a part together
RANDOM = ("activations", "debug", "features", "history", "watch") # parts with rules that test; the others have thresholds, and 20 seeds of each kind of network


def loud(findings):
    "The types of findings above 'info'."
    return {f.type for f in findings if f.severity != "info"}


def planted(case, seeds=SEEDS):
    "How often the fault of a case is found, and which types above 'info' were said that do not belong to it."
    make, wanted, may = case
    said = [make(seed) for seed in range(seeds)]
    return sum(wanted in {f.type for f in fs} for fs in said), sorted(set().union(*map(loud, said)) - {wanted} - set(may))


def clean(make, sets):
    "In how many sets without a fault something is said, and what."
    said = [s for seed in range(sets) if (s := loud(make(seed)))]
    return len(said), sorted(set().union(*said))


def run_part(part):
    "Rows for one part: its cases, its sound sets, and all of those together."
    mod, name, spoken, total = importlib.import_module(f"bench.{part}"), part.removeprefix("planted_"), 0, 0
    for case, how in mod.CASES.items():
        found, more = planted(how)
        yield dict(part=name, planted=case, seeds=SEEDS, found=found, also_said=", ".join(more) or "nothing")
    sets = max(SEEDS, -(-SETS//len(mod.CLEAN))) if name in RANDOM else SEEDS
    for case, make in mod.CLEAN.items():
        n = getattr(mod, "SETS", {}).get(case, sets)
        spoke, what = clean(make, n)
        spoken, total = spoken + spoke, total + n
        if spoke: yield dict(part=name, sound=case, sets=n, spoke=spoke, said=", ".join(what))
    yield dict(part=name, sound=f"all {len(mod.CLEAN)} kinds", sets=total, spoke=spoken, upper_99=binomtest(spoken, total).proportion_ci(.98).high)


def run(parts=PARTS): return [row for part in parts for row in run_part(part)]
