"Coverage of 95 % intervals over 4,000 simulations of 300 and of 1,000 rows."
import sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[1]/"tests"/"oracles")); sys.path.insert(0, str(Path(__file__).parents[1]/"tests"))
from test_intervals_oracle import simulated, truth
from interp_kit.core import mean_interval, wilson
from interp_kit.predictions import Predictions, row_scores


def run(sims=4000):
    want, res = truth(), []
    for n in (300, 1000):
        hits = dict.fromkeys(want, 0)
        for s in range(sims):
            rows = row_scores(Predictions.from_arrays(*simulated(s, n)))
            for k, v in want.items():
                lo, hi = wilson(int(rows.correct.sum()), n) if k == "accuracy" else mean_interval(getattr(rows, k), 1000, s)
                hits[k] += lo <= v <= hi
        res += [dict(metric=k, rows=n, simulations=sims, coverage=h/sims) for k, h in hits.items()]
    return res
