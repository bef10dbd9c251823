"Planted columns are found, and only they; tables without any stay silent."
import pytest, warnings
from scipy.stats import binomtest
from bench.planted_features import CASES, CLEAN, PLANTED, fitted, tabular, told


@pytest.mark.parametrize("name", CASES)
def test_planted_columns_are_found_and_only_they(name):
    make, kind, along = CASES[name]
    for seed in range(1 if "fastai" in name else 3):
        found = {f.type: f for f in make(seed)}
        assert kind in found and set(found) <= {kind} | along
        what = next(w for w in sorted(PLANTED, key=len, reverse=True) if w in name.replace("leak_fastai_category", "leak_category"))
        assert set(found[kind].classes) == PLANTED[what]
        assert not (set(found.get("useless_columns", found[kind]).classes) & PLANTED[what]) or kind == "useless_columns" or "useless_columns" not in found


@pytest.mark.parametrize("name", CLEAN)
def test_tables_without_faults_are_silent(name):
    n, spoke = 20, 0
    for seed in range(100, 100 + n): spoke += any(f.severity != "info" for f in CLEAN[name](seed))
    assert binomtest(spoke, n, .05, alternative="greater").pvalue > .001


def test_a_fastai_learner_on_clean_columns_is_silent(): assert told(tabular(3, None), 3) == []
