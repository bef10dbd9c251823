"Pictures of curves: what is drawn is what was recorded; the learning rates proposed are fastai's."
import numpy as np, pytest, torch
import fastai.callback.schedule
from fastai.callback.schedule import minimum, slide, steep, valley
from interp_kit.core import DataError
from interp_kit.training.curves import compare_dynamics, _lr_suggestions, plot_lr_find, plot_metrics, plot_multi_losses
from interp_kit.training.history import TrainingHistory
from quick_learner import make

nan = float("nan")


@pytest.mark.parametrize("kwargs", [{}, dict(num_it=60, start_lr=1e-5), dict(stop_div=False)])
def test_the_rates_proposed_are_those_of_lr_find(kwargs, tmp_path):
    learn = make(); learn.path = tmp_path
    own = learn.lr_find(show_plot=False, suggest_funcs=(valley, steep, minimum, slide), **kwargs)
    ours = _lr_suggestions(learn, ("valley", "steep", "minimum", "slide"))
    for n in own._fields: assert ours[n][0] == pytest.approx(getattr(own, n), rel=1e-5), n
    ax = plot_lr_find(learn, suggestion=("valley", "slide")); x, y = ax.get_lines()[0].get_data()
    assert np.array_equal(x, np.array(learn.recorder.lrs[5:-5], dtype=float)) and np.array_equal(y, np.array([float(v) for v in learn.recorder.losses[5:-5]])) and ax.get_xscale() == "log"
    with pytest.raises(DataError, match="learning rate search: lr_find overwrites"): TrainingHistory.from_learner(learn)


def test_without_a_search(tmp_path):
    learn = make(); learn.path = tmp_path
    for again in (lambda: None, lambda: learn.fit(2, .1), lambda: learn.fit_one_cycle(2, .1)):
        again()
        with pytest.raises(DataError, match=r"lr_find\(\)"): plot_lr_find(learn)
    learn.lr_find(show_plot=False); learn.validate()
    with pytest.raises(DataError, match="empty fastai's Recorder"): plot_lr_find(learn)
    with pytest.raises(DataError, match=r"lr_find\(\)"): plot_lr_find(object())


def test_a_short_search_is_drawn_without_suggestions(tmp_path):
    learn = make(); learn.path = tmp_path; learn.lr_find(show_plot=False, suggest_funcs=None, num_it=12)
    with pytest.raises(DataError, match="5 are needed"): plot_lr_find(learn)
    assert len(plot_lr_find(learn, 1, 1, suggestion=False).get_lines()) == 1


def test_all_measures_with_the_best_epoch():
    h = {"train_loss": [3., 2, 1, .5], "valid_loss": [3., 1.5, nan, 2], "error_rate": [.5, .2, .1, .3], "f1": [.1, .2, .9, .3], "lr": [1, 1, 1, 1.]}
    axs = plot_metrics(h, ncols=3)
    assert [a.get_title() for a in axs] == ["loss (less is better)", "error_rate (less is better)", "f1 (more is better)"]
    stars = [next(l for l in a.get_lines() if l.get_marker() == "*").get_xdata()[0] for a in axs]
    assert stars == [1, 2, 2]
    assert len(plot_metrics({f"val_m{i}": [1., 2] for i in range(17)})) == 17


@pytest.mark.parametrize("n", [1, 7, 8, 40, 300])
def test_many_runs(n):
    r = np.random.default_rng(n); runs = [2*np.exp(-np.arange(3 + i % 20)/4) + .2 + r.random() for i in range(n)]
    names = [f"Lauf {i}: sehr langer Name mit $\\alpha_{i}$ — 学習率 {i}, größer als alle anderen Namen zuvor" for i in range(n)]
    ax = plot_multi_losses(runs, names); ax.figure.canvas.draw()
    texts = [t.get_text() for t in ax.get_legend().get_texts()]
    assert len(texts) == len(set(texts)) == (n if n <= 30 else 12) and len(ax.get_lines()) == n
    looks = {(str(l.get_color()), l.get_linestyle()) for l in ax.get_lines()}; assert len(looks) == n if n <= 30 else len(looks) == 13
    for line, v in zip(ax.get_lines(), runs): assert np.array_equal(line.get_ydata(), v)
    assert len(ax.figure.axes) == 1


def test_runs_of_all_kinds_lengths_and_holes():
    learn = make(); learn.fit(3, .1)
    ax = plot_multi_losses([learn, TrainingHistory.from_learner(learn), {"loss": [1, 2], "val_loss": [3, nan]}], labels=("a", "b", "c"))
    assert np.array_equal(ax.get_lines()[0].get_ydata(), TrainingHistory.from_learner(learn)["valid_loss"]) and ax.get_xlabel() == "epoch" and ax.get_ylabel() == "validation loss"
    crosses = [l for l in ax.get_lines() if l.get_marker() == "X"]; assert len(crosses) == 1 and crosses[0].get_xydata().tolist() == [[0, 3]]
    ax = plot_multi_losses(torch.rand(3, 5)); assert len(ax.get_lines()) == 3
    ax = plot_multi_losses([[1, None, 3], np.array([])], smoothing=2); assert "no finite loss" in ax.get_legend().get_texts()[0].get_text()
    assert plot_multi_losses([learn], which="batch").get_ylabel() == "training loss of batches" and plot_multi_losses([learn], which="train").get_ylabel() == "training loss"
    assert plot_multi_losses([[1e-4, 1]], log=False).get_yscale() == "linear"


def test_comparison_goes_on_past_what_cannot_be_read():
    learn = make()
    res = compare_dynamics({"never trained": learn, "line": {"val_loss": [2., 1], "val_acc": [.1, .2]}, "no such file": "nowhere.csv", 3: {"val_f1": [.1]}})
    assert list(res.runs) == ["line", "3"] and list(res.errors) == ["never trained", "no such file"] and res.table.run.tolist() == ["line", "3", "never trained", "no such file"]
    assert res.table.reason.notna().all() and len(res.plot()) == 3
    t = res.pareto(dict(best_loss="min", peak_performance="max")); assert t.front.tolist() == [True, False, False, False] and "best_loss not known" in t.reason["3"]
