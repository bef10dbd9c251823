"Planted faults of the rooms internals, training and features: whether each is found in 20 seeds, what else is said, and how often clean sets speak."
import importlib, pkgutil
from pathlib import Path
from scipy.stats import binomtest

PARTS = sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if m.name.startswith("planted_"))
SEEDS, SETS = 20, 400


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


def run():
    res = []
    for part in PARTS:
        mod, name = importlib.import_module(f"bench.{part}"), part.removeprefix("planted_")
        for case, how in mod.CASES.items():
            found, more = planted(how)
            res.append(dict(part=name, planted=case, seeds=SEEDS, found=found, also_said=", ".join(more) or "nothing"))
        for case, make in mod.CLEAN.items():
            n = getattr(mod, "SETS", {}).get(case, SETS) # fewer only where nothing but the seed of a network differs and a set takes long
            spoke, what = clean(make, n)
            res.append(dict(part=name, clean=case, sets=n, spoke=spoke, upper_99=binomtest(spoke, n).proportion_ci(.98).high, said=", ".join(what) or "nothing"))
    return res
