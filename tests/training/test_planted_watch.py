"Planted faults in training are named, and only they; sound trainings are silent. In full, with 20 seeds and 400 sound trainings, in bench/watch.py."
import numpy as np, pytest
from bench.planted_watch import CASES, CLEAN, mislabelled, ranking


def told(findings): return {f.type for f in findings if f.severity != "info"}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", [c for c in CASES if c != "mislabelled_5_percent"]) # that one below, with its rows
def test_planted(case, seed):
    run, kind, also = CASES[case]
    types = told(run(seed))
    assert kind in types and types <= {kind} | also


@pytest.mark.parametrize("case", CLEAN)
def test_silent(case): assert told(CLEAN[case](1)) == set()


@pytest.mark.parametrize("seed", range(3))
def test_ranking_and_rows_named(seed):
    cb, bad = mislabelled(seed)
    assert ranking(cb.cartography(), bad) > .8
    findings = cb.findings()
    named = next(f for f in findings if f.type == "mislabelled_rows").rows
    assert told(findings) <= {"mislabelled_rows", "forgotten_rows"}
    assert np.isin(named, bad).mean() > .8 and np.isin(bad, named).mean() > .4
