"Training histories: the numbers of fixed curves, false alarms on 2,000 clean sets, Pareto fronts against the definition and their time; and pictures."
import warnings
from pathlib import Path
import numpy as np
from scipy.stats import binomtest
from bench.measure import paired
from bench.planted_history import CLEAN
from interp_kit.training.curves import compare_dynamics, plot_lr_find, plot_metrics, plot_multi_losses
from interp_kit.training.dynamics import dynamics
from interp_kit.training.history import TrainingHistory
from interp_kit.training.pareto import pareto_front, plot_pareto

PICTURES = Path(__file__).parent/"pictures"


def literal(v):
    "The definition: each row with all others."
    return np.array([not ((v >= x).all(1) & (v > x).any(1)).any() for x in v])


def _line():
    d = dynamics(dict(loss=np.linspace(2, .5, 12), val_loss=np.linspace(2, .9, 12), val_accuracy=np.linspace(.1, .8, 12)))
    yield dict(what="line of 12 epochs", convergence=d.epochs_to_convergence, overfitting_index=d.overfitting_index, final_gap=d.final_gap, stability=d.training_stability, peak_epoch=d.peak_epoch)


def _silence(n=2000):
    for name, make in CLEAN.items():
        spoke = sum(any(f.severity != "info" for f in make(seed)) for seed in range(n))
        yield dict(what=f"clean curves ({name})", sets=n, spoke=spoke, rate=spoke/n, upper_99=binomtest(spoke, n).proportion_ci(.98).high)


def _fronts():
    r = np.random.default_rng(0); same = 0
    for i in range(1000):
        v = r.integers(0, int(r.integers(2, 12)), (int(r.integers(1, 60)), int(r.integers(1, 6)))).astype(float)
        same += np.array_equal(pareto_front(v, ["max"]*v.shape[1]), literal(v))
    yield dict(what="fronts equal to the definition, with ties", sets=1000, equal=same)
    for k in (2, 3):
        v = r.random((4000, k)); z = np.abs(r.normal(size=(4000, k))); ring = z/np.linalg.norm(z, axis=1, keepdims=True)
        for kind, x in (("random", v), ("all on the front", ring)):
            t = paired(lambda: pareto_front(x, ["max"]*k), lambda: literal(x), n=15, warm=0)
            yield dict(what=f"4000 points, {k} measures, {kind}", on_front=int(pareto_front(x, ["max"]*k).sum()), **t)


def _run(seed, n=25, worse=0., to=.5, jitter=.02):
    r = np.random.default_rng(seed); e = np.arange(n)
    v = to + .1 + (2.2 - to)*np.exp(-e/3) + worse*np.maximum(e - 8, 0)
    return dict(loss=(to + (2.3 - to)*np.exp(-e/3))*np.where(worse, np.exp(-e/8), 1), val_loss=v*(1 + jitter*r.normal(size=n)), val_accuracy=(1 - .2*v)*(1 + .005*r.normal(size=n)))


def _keep(ax, name):
    import matplotlib.pyplot as plt
    np.ravel(ax)[0].figure.savefig(PICTURES/f"history_{name}.png", dpi=70); plt.close("all")


def _pictures():
    import matplotlib; matplotlib.use("agg")
    import pandas as pd, tempfile
    import fastai.callback.schedule
    from interp_kit.demo import demo_learner
    warnings.filterwarnings("ignore")
    _keep(dynamics(_run(0, worse=.03)).plot(), "overfitting")
    learn = demo_learner("tabular"); learn.remove_cbs([c for c in learn.cbs if c.name == "progress"]); learn.path = Path(tempfile.mkdtemp())
    for layer in learn.model.modules():
        if hasattr(layer, "reset_parameters"): layer.reset_parameters()
    learn.lr_find(show_plot=False); _keep(plot_lr_find(learn), "lr_find")
    with learn.no_logging():
        learn.fit_one_cycle(12, 1e-2); first = TrainingHistory.from_learner(learn, smoothed=False)
        learn.fit_one_cycle(8, 5e-3); both = first + TrainingHistory.from_learner(learn, smoothed=False)
    _keep(dynamics(both).plot(), "two_fits"); _keep(plot_metrics(both, nrows=1), "metrics")
    _keep(plot_multi_losses([_run(0)["val_loss"], _run(1, worse=.03)["val_loss"]], ["plain", "no weight decay"], figsize=(8, 5)), "runs_2")
    names = [f"lr={10.**-(i % 5):.0e}, Stapelgröße {2**(i % 7 + 3)}, Gewichtsabfall {i/100:.2f}: ein langer Name" for i in range(23)] + ["学習率が大きすぎる", "cost in $ per run_$x$"]
    runs = [_run(i, n=10 + i, to=.3 + .03*i, worse=.01*(i % 4 == 0))["val_loss"] for i in range(25)]; runs[3] = np.r_[runs[3][:6], [np.nan]*4]
    _keep(plot_multi_losses(runs, names), "runs_25")
    several = compare_dynamics({"plain": _run(0), "no weight decay": _run(1, worse=.03), "jumping": _run(3, jitter=.3), "short": _run(2, n=4)})
    _keep(several.plot(), "comparison"); _keep(plot_pareto(several.table.set_index("run"), dict(peak_performance="max", overfitting_index="min")), "pareto_2")
    _keep(plot_pareto(several.table.set_index("run"), dict(peak_performance="max", overfitting_index="min", training_stability="min", epochs_to_convergence="min")), "pareto_4")


def run():
    res = [*_line(), *_silence(), *_fronts()]
    _pictures()
    return res
