"The columns that are named are those that were planted."
import pytest
from bench.planted_features import CASES, PLANTED, tabular, told


@pytest.mark.parametrize("name", [n for n in CASES if "fastai" not in n])
def test_the_planted_columns_are_named(name):
    make, kind, _ = CASES[name]
    found = {f.type: f for f in make(0)}
    what = next(w for w in sorted(PLANTED, key=len, reverse=True) if w in name)
    assert set(found[kind].classes) == PLANTED[what]
    if kind != "useless_columns" and "useless_columns" in found: assert not set(found["useless_columns"].classes) & PLANTED[what]


def test_a_fastai_learner_on_clean_columns_is_silent(): assert told(tabular(3, None), 3) == []
