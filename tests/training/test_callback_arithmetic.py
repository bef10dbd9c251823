"Forgetting, areas under the margin and the map against slow, literal versions, on random histories."
import math
import numpy as np, pytest
from interp_kit.training.cartography import _forgetting_events, _learned_classes, _mean, _cartography


def slow(right, probs, margins):
    "One row after the other, visit after visit, in Python's own numbers."
    res = []
    for i in range(right.shape[1]):
        visits = [(e, right[e, i], float(probs[e, i]), float(margins[e, i])) for e in range(len(right)) if not math.isnan(right[e, i])]
        events, first, last = 0, math.nan, None
        for e, r, *_ in visits:
            if last == 1 and r == 0: events += 1
            if r == 1 and math.isnan(first): first = e
            last = r
        n = len(visits)
        if n == 0: res.append((math.nan,)*6 + (0,)); continue
        mean = math.fsum(v[2] for v in visits)/n
        res.append((mean, math.sqrt(math.fsum((v[2] - mean)**2 for v in visits)/n), sum(v[1] for v in visits)/n, math.inf if math.isnan(first) else events, first, math.fsum(v[3] for v in visits)/n, n))
    return np.array(res, dtype=float)


@pytest.mark.parametrize("seed", range(20))
def test_random_histories(seed):
    rng = np.random.default_rng(seed)
    E, N = int(rng.integers(1, 12)), int(rng.integers(1, 60))
    gone = rng.random((E, N)) < rng.choice([0, .2, .9])
    right, probs, margins = (rng.random((E, N)) < rng.random(N)).astype(np.float32), rng.random((E, N)).astype(np.float32), rng.normal(0, 5, (E, N)).astype(np.float32)
    for a in (right, probs, margins): a[gone] = np.nan
    want = slow(right, probs, margins)
    table = _cartography(list(right), list(probs), list(margins), block=int(rng.integers(1, 70)))
    np.testing.assert_allclose(table[["confidence", "variability", "correctness", "forgetting", "learned_at", "aum", "n_epochs"]].to_numpy(dtype=float), want, atol=1e-6)
    np.testing.assert_allclose(_mean(margins), want[:, 5], atol=1e-6)
    events, first = _forgetting_events(right)
    np.testing.assert_array_equal(events, want[:, 3]); np.testing.assert_array_equal(first, want[:, 4])
    assert (table.reason[want[:, 6] == 0] == "no epoch visited the row").all()


def test_learned_classes():
    import pandas as pd
    table = pd.DataFrame(dict(label=["a", "a", "a", "b", "b", "c"], aum=[1., 2, -5, -1, np.nan, 3]))
    assert _learned_classes(table).tolist() == [True, True, True, False, False, True]
