"Planted faults are found, and only they; sound models are silent (3 seeds here, 20 in bench/planted.py)."
import sys
from pathlib import Path
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from bench import planted_debug as planted

SEEDS = range(3)


def types(findings): return {f.type for f in findings if f.severity != "info"}


@pytest.mark.parametrize("name", planted.CASES)
def test_fault_is_found(name):
    make, wanted, may = planted.CASES[name]
    said = [types(make(seed)) for seed in SEEDS]
    assert all(wanted in s for s in said), said
    assert not set().union(*said) - {wanted} - set(may), said


@pytest.mark.parametrize("name", planted.CLEAN)
def test_sound_models_are_silent(name):
    for seed in SEEDS: assert types(planted.CLEAN[name](seed)) == set(), [str(f) for f in planted.CLEAN[name](seed)]
