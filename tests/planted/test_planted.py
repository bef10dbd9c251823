"Planted faults of the rooms internals, training and features are found, and only they; sound sets are silent. A few seeds here, all in `python -m bench planted`."
import importlib
import pytest
from bench.planted import PARTS, clean, planted

MODULES = {part.removeprefix("planted_"): importlib.import_module(f"bench.{part}") for part in PARTS}
FEWER = {"leak_fastai": 1, "leak_fastai_category": 1, "shuffled_labels": 1} # a learner is trained for each


@pytest.mark.parametrize("part,case", [(p, c) for p, m in MODULES.items() for c in m.CASES])
def test_found_and_nothing_else(part, case):
    seeds = FEWER.get(case, 3)
    assert planted(MODULES[part].CASES[case], seeds) == (seeds, [])


@pytest.mark.parametrize("part,case", [(p, c) for p, m in MODULES.items() for c in m.CLEAN])
def test_silent(part, case):
    assert clean(MODULES[part].CLEAN[case], 1 if part == "watch" else 3) == (0, [])
