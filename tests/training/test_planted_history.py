"Planted faults of trainings are found, and only they; clean noise is left in peace. `python -m bench planted` runs all seeds."
import pytest
from scipy.stats import binom
from bench.planted_history import CASES, CLEAN


def loud(findings): return {f.type for f in findings if f.severity != "info"}


@pytest.mark.parametrize("case", CASES)
def test_found_and_nothing_else(case):
    make, wanted, may = CASES[case]
    for seed in range(3 if case != "shuffled_labels" else 1):
        said = loud(make(seed)); assert wanted in said and said <= {wanted} | may, (seed, said)


@pytest.mark.parametrize("case", CLEAN)
def test_silent_on_400_clean_sets(case):
    spoke = sum(bool(loud(CLEAN[case](seed))) for seed in range(400))
    assert spoke <= binom.ppf(.99, 400, .05), spoke
