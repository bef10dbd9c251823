"Scores of a regression equal scikit-learn's and scipy's; their intervals cover."
import warnings
import numpy as np, pytest, scipy.stats, torch
import sklearn.metrics as skm
from interp_kit.predictions import Predictions, bootstrap, per_target_metrics, regression_intervals, regression_metrics, target_names, value_pairs

SAME = dict(r2=skm.r2_score, explained_variance=skm.explained_variance_score, mae=skm.mean_absolute_error, rmse=skm.root_mean_squared_error,
            mape=skm.mean_absolute_percentage_error, median_absolute_error=skm.median_absolute_error)


def case(seed):
    "Shape, scale, offset and noise at random; float32 or float64."
    r = np.random.default_rng(seed); n, k = int(r.choice([1, 2, 3, 17, 300, 2500])), int(r.choice([1, 1, 2, 5, 70]))
    scale, offset = 10.**r.uniform(-3, 4, k), r.choice([0, 0, 1, -50, 1e8], k)
    noise = dict(normal=r.normal, t=lambda size: r.standard_t(3, size), laplace=lambda size: r.laplace(size=size))[r.choice(["normal", "t", "laplace"])]
    t = r.normal(size=(n, k))*scale + offset; p = t + noise(size=(n, k))*scale*r.choice([.01, .5, 3]) + scale*r.choice([0, .3])
    if k == 1 and r.random() < .5: t, p = t[:, 0], p[:, 0]
    if r.random() < .3 and not (np.abs(offset) > 1e6).any(): t, p = t.astype(np.float32), p.astype(np.float32)
    return t, p


def close(ours, ref, what): assert np.allclose(ours, ref, rtol=1e-6, atol=1e-9, equal_nan=True), (what, ours, ref)


@pytest.mark.parametrize("seed", range(150))
def test_equal_to_scikit_learn(seed):
    t, p = case(seed); m, each = regression_metrics(p, t), per_target_metrics(p, t); t, p = (o.astype(np.float64) for o in (t, p))
    spread = len(t) > 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k, f in SAME.items():
            if k in ("r2", "explained_variance") and not spread: assert np.isnan(m[k]) and m.reasons[k] == "there is one row"; continue
            close(m[k], f(t, p), k); close(each[k], f(t, p, multioutput="raw_values"), k)
        close(m["bias"], (p - t).mean(), "bias"); close(m["max_error"], np.abs(p - t).max(), "max_error")
        if not spread: return
        t2, p2 = t.reshape(len(t), -1), p.reshape(len(p), -1)
        for k, f in dict(pearson=scipy.stats.pearsonr, spearman=scipy.stats.spearmanr).items():
            ref = [f(t2[:, i], p2[:, i])[0] for i in range(t2.shape[1])]; close(each[k], ref, k); close(m[k], np.mean(ref), k)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("value", [0., 7., .1, 1e8 + .1])
def test_constant_targets_are_undefined_and_constant_predictions_are_not(k, value):
    r = np.random.default_rng(0); t, p = np.full((40, k), value), r.normal(size=(40, k))
    m = regression_metrics(p, t)
    for name in ("r2", "explained_variance", "pearson", "spearman"): assert np.isnan(m[name]) and m.reasons[name] == "all targets are equal"
    close(m["mae"], skm.mean_absolute_error(t, p), "mae")
    back = regression_metrics(t, p); assert np.isnan(back["pearson"]); close(back["r2"], skm.r2_score(p, t), "r2"); close(back["explained_variance"], skm.explained_variance_score(p, t), "ev")


def test_one_constant_target_among_several_is_left_out_and_said():
    t, p = case(9999); r = np.random.default_rng(1); t = r.normal(size=(50, 3)); p = t + r.normal(size=(50, 3)); t[:, 1] = 2
    m, each = regression_metrics(p, t), per_target_metrics(p, t); keep = [0, 2]
    close(m["r2"], skm.r2_score(t[:, keep], p[:, keep]), "r2"); assert "left out of the mean" in m.notes["r2"] and np.isnan(each["r2"].iloc[1])
    close(m["mae"], skm.mean_absolute_error(t, p), "mae")


def test_what_is_not_finite_is_reported_and_not_hidden():
    r = np.random.default_rng(2); t = r.normal(size=(30, 2)); p = t.copy(); p[4, 0] = np.nan; p[9, 0] = np.inf; t[4, 1] = np.nan
    m, each = regression_metrics(p, t), per_target_metrics(p, t)
    assert all(np.isnan(m[k]) and "row 4" in m.reasons[k] for k in (*SAME, "bias", "max_error", "spearman")) and each.not_finite.tolist() == [2, 1]
    ok = np.setdiff1d(np.arange(30), [4, 9]); kept = Predictions.from_arrays(p, t, task="regression")[ok]
    close(regression_metrics(kept)["mae"], np.abs(p[ok] - t[ok]).mean(), "mae"); assert regression_metrics(kept)["mae"] == 0


def test_a_large_offset_loses_nothing():
    r = np.random.default_rng(3); t, e = r.normal(size=4000), r.normal(size=4000)*.1
    near, far = regression_metrics(t + e, t), regression_metrics(t + e + 1e8, t + 1e8)
    for k in ("r2", "explained_variance", "mae", "rmse", "pearson"): assert abs(near[k] - far[k]) < 1e-6, k


def test_shapes_and_memory_maps_are_the_same_numbers(tmp_path):
    r = np.random.default_rng(4); t, p = r.normal(size=(2, 500)).astype(np.float32)
    np.save(tmp_path/"p.npy", p[:, None]); on_disk = torch.from_numpy(np.load(tmp_path/"p.npy", mmap_mode="c"))
    assert regression_metrics(p, t) == regression_metrics(p[:, None], t[:, None]) == regression_metrics(on_disk, t[:, None])
    both = Predictions.from_arrays(p.reshape(250, 2, 1), t.reshape(250, 2, 1), task="regression"); assert value_pairs(both)[0].shape == (250, 2) and target_names(both) == ["target 0", "target 1"]


def truth(): return dict(r2=1 - .25/1.25, explained_variance=1 - .25/1.25, rmse=.5, mae=.5*np.sqrt(2/np.pi), bias=0, pearson=1/np.sqrt(1.25), spearman=6/np.pi*np.arcsin(1/np.sqrt(1.25)/2),
                         median_absolute_error=.5*scipy.stats.norm.ppf(.75))


@pytest.mark.parametrize("n,k", [(300, 1), (300, 3)])
def test_intervals_cover(n, k):
    "Targets are predictions and normal noise."
    want, sims = truth(), 300; hits = dict.fromkeys(want, 0)
    for s in range(sims):
        r = np.random.default_rng(s); p = r.normal(size=(n, k)); t = p + .5*r.normal(size=(n, k))
        for name, (lo, hi) in regression_intervals(Predictions.from_arrays(p, t, task="regression"), 400, s, names=list(want)).items(): hits[name] += lo <= want[name] <= hi
    slack = 3.1*np.sqrt(.95*.05/sims)
    for name, h in hits.items(): assert .93 - slack < h/sims <= 1 and h/sims < .97 + slack, (name, h/sims)


def test_large_sets_have_the_intervals_that_resampling_rows_gives():
    r = np.random.default_rng(5); p = r.normal(size=30_000); t = p + r.standard_t(5, size=30_000); big = Predictions.from_arrays(p, t, task="regression")
    got = regression_intervals(big, names=["r2", "rmse", "pearson", "median_absolute_error", "spearman"])
    rows = [r.integers(0, 30_000, 30_000) for _ in range(200)]
    refs = dict(r2=skm.r2_score, rmse=skm.root_mean_squared_error, median_absolute_error=skm.median_absolute_error, pearson=lambda a, b: np.corrcoef(a, b)[0, 1], spearman=lambda a, b: scipy.stats.spearmanr(a, b)[0])
    for k, f in refs.items():
        sd = np.std([f(t[i], p[i]) for i in rows[:60 if k == "spearman" else 200]]); width = (got[k][1] - got[k][0])/3.92
        assert .72 < width/sd < 1.35, (k, width, sd)


def test_bootstrap_knows_regressions():
    t, p = np.random.default_rng(6).normal(size=(2, 90)); q = Predictions.from_arrays(p, t, task="regression")
    v, lo, hi = bootstrap(q, "mae"); assert lo < v < hi and v == regression_metrics(q)["mae"]
    assert np.isnan(bootstrap(q, "max_error")[1])
