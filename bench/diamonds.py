"""The price of 53,940 diamonds (Wickham 2009) by a small fastai network: scores, findings, pictures.

Needs `pip install --no-deps plotnine`, whose wheel brings the table; the package itself is not imported."""
import importlib.util, time, warnings
from pathlib import Path
import matplotlib, numpy as np

PICTURES = Path(__file__).parent/"pictures"


def table():
    import pandas as pd
    spec = importlib.util.find_spec("plotnine")
    if spec is None: raise SystemExit("bench diamonds needs its table: pip install --no-deps plotnine")
    return pd.read_csv(Path(spec.origin).parent/"data"/"diamonds.csv")


def learner(df, y_names, epochs=4):
    from fastai.data.block import RegressionBlock
    from fastai.data.transforms import RandomSplitter
    from fastai.tabular.core import Categorify, FillMissing, Normalize, TabularPandas
    from fastai.tabular.learner import tabular_learner
    from fastai.torch_core import set_seed
    import fastai.callback.schedule
    set_seed(0)
    names = [y_names] if isinstance(y_names, str) else y_names
    to = TabularPandas(df, [Categorify, FillMissing, Normalize], cat_names=["cut", "color", "clarity"], cont_names=["carat", "depth", "table", *(c for c in "xyz" if c not in names)], y_names=y_names,
                       y_block=RegressionBlock(n_out=len(names)), splits=RandomSplitter(.2, seed=0)(df))
    learn = tabular_learner(to.dataloaders(bs=512), layers=[64, 32], n_out=len(names))
    with learn.removed_cbs([c for c in learn.cbs if c.name == "progress"]), learn.no_logging(): learn.fit_one_cycle(epochs, 2e-2)
    return learn


def _save(axs, name):
    import matplotlib.pyplot as plt
    np.ravel(axs)[0].figure.savefig(PICTURES/f"{name}.png", dpi=70); plt.close("all")


def _timed(rows, what, f):
    t = time.process_time(); res = f(); rows.append(dict(what=what, cpu_s=time.process_time() - t))
    return res


def run():
    matplotlib.use("agg"); warnings.simplefilter("ignore")
    from interp_kit.all import RegressionInterpretation
    df, rows = table().assign(price=lambda d: (d.price/1000).astype("float32")), []
    learn = learner(df, "price"); interp = _timed(rows, "one pass", lambda: RegressionInterpretation.from_learner(learn))
    m = _timed(rows, "scores and intervals", lambda: interp.metrics(ci=True)); found = _timed(rows, "findings", interp.findings)
    for name in ("plot_predicted_vs_actual", "plot_residuals", "plot_residual_distribution"): _save(_timed(rows, name, getattr(interp, name)), f"diamonds_{name[5:]}")
    _save(_timed(rows, "plot_errors_by carat", lambda: interp.plot_errors_by("carat")), "diamonds_errors_by_carat"); _save(interp.plot_top_losses(6, ncols=3), "diamonds_top_losses")
    t = interp.residuals(); assert np.allclose(t.target, df.price[t.item]), "each row has its own price"
    res = [dict(what=f"price in 1,000 dollars, {k}", value=float(m.value[k]), low=float(m.low[k]), high=float(m.high[k])) for k in ("r2", "mae", "rmse", "mape", "median_absolute_error", "bias")]
    res += [dict(what=f"finding: {f.title}", severity=f.severity) for f in found]
    odd = df.loc[t.item[np.concatenate([f.rows for f in found if f.type == "outliers"]).astype(int)]]
    res += [dict(what=f"outlier: row {i} of the table, {r.carat} carat, but x, y, z = {r.x}, {r.y}, {r.z} mm") for i, r in odd.iterrows()]
    two = RegressionInterpretation.from_learner(learner(df.assign(price=np.log10(1000*df.price)), ["price", "x"], 2)); _save(two.plot_residuals(), "diamonds_two_targets")
    res += [dict(what=f"log10 price and length x together, {k}: {name}", value=float(two.per_target().loc[name, k])) for name in ("price", "x") for k in ("r2", "mae")]
    return [dict(rows_in_all=len(df), rows_validated=len(interp))] + res + [dict(what=f"two targets: {f.title}", severity=f.severity) for f in two.findings()] + rows
