"The front against the definition, and its speed on sets that are hard for each way of computing it."
import numpy as np, pandas as pd, pytest
from interp_kit.training.pareto import pareto_front, _pareto_table, plot_pareto


def brute(v, signs):
    v = v*signs; known = ~np.isnan(v).any(1); res = np.zeros(len(v), dtype=bool)
    for i in np.flatnonzero(known):
        others = v[known]
        res[i] = not ((others >= v[i]).all(1) & (others > v[i]).any(1)).any()
    return res


def test_equal_to_brute_force_on_1000_sets_with_ties():
    r = np.random.default_rng(0)
    for i in range(1000):
        n, k = int(r.integers(1, 40)), int(r.integers(1, 6))
        v = r.integers(0, int(r.integers(2, 9)), (n, k)).astype(float) if i % 2 else r.normal(size=(n, k)).round(1)
        if i % 3 == 0: v[r.random((n, k)) < .05] = np.nan
        ways = r.choice(["max", "min"], k)
        assert np.array_equal(pareto_front(v, ways), brute(v, np.where(ways == "max", 1, -1))), i


@pytest.mark.parametrize("k", [2, 3, 4])
def test_large_sets(k):
    v = np.random.default_rng(k).normal(size=(700, k)); assert np.array_equal(pareto_front(v, ["max"]*k), brute(v, 1))
    ring = np.abs(v)/np.linalg.norm(v, axis=1, keepdims=True); assert pareto_front(ring, ["max"]*k).all()


@pytest.mark.parametrize("k", [2, 3])
def test_100_000_points_are_not_compared_with_one_another(k):
    "A table of all pairs would have 10 GB."
    z = np.abs(np.random.default_rng(0).normal(size=(100_000, k))); ring = z/np.linalg.norm(z, axis=1, keepdims=True)
    assert pareto_front(ring, ["max"]*k).all()
    front = pareto_front(np.r_[ring, ring*.5], ["max"]*k); assert front[:100_000].all() and not front[100_000:].any()


def test_names_and_reasons():
    t = _pareto_table(pd.DataFrame({"a": [1, 2, np.nan], "b": [1., 2, 3]}, index=["x", "y", "z"]), ["max", "max"])
    assert t.front.tolist() == [False, True, False] and t.reason.tolist() == ["dominated by y", "", "a not known: not compared"]


@pytest.mark.parametrize("n,k", [(1, 2), (25, 2), (4000, 2), (25, 3), (400, 5)])
def test_pictures_of_all_sizes(n, k):
    r = np.random.default_rng(0); df = pd.DataFrame(r.random((n, k)), columns=[f"$m_{i}$" for i in range(k)], index=[f"Lauf Nr. {i} mit $x^2$ und ümläuten, 学習" for i in range(n)])
    ax = plot_pareto(df, ["max"]*k); ax.figure.canvas.draw()
    assert ax.get_xlabel() or k > 2
