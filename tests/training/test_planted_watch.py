"Wrong labels in training: how well they are ranked, and which rows are named."
import numpy as np, pytest
from bench.planted_watch import mislabelled, ranking


@pytest.mark.parametrize("seed", range(3))
def test_ranking_and_rows_named(seed):
    cb, bad = mislabelled(seed)
    assert ranking(cb.cartography(), bad) > .8
    named = next(f for f in cb.findings() if f.type == "mislabelled_rows").rows
    assert np.isin(named, bad).mean() > .8 and np.isin(bad, named).mean() > .4
