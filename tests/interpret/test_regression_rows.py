"Regressions that fastai's own interpretation cannot draw, or draws nothing for: right rows, right numbers, a picture each."
import json
import numpy as np, pandas as pd, pytest, torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
import sklearn.metrics as skm
from fastai.tabular.all import Categorify, FillMissing, Normalize, TabularPandas, tabular_learner
from fastai.vision.all import DataBlock, ImageBlock, IndexSplitter, L1LossFlat, Learner, MSELossFlat, RandomSplitter, RegressionBlock, get_image_files
from sklearn.datasets import load_diabetes
from interp_kit.all import DataError, Predictions, RegressionInterpretation, TaskError, as_learner, bootstrap, interpret, plot_predictions, regression_metrics, show_results, write_folder
from interp_kit.demo import digit_folder

pytestmark = pytest.mark.filterwarnings("ignore")
PICTURES = ("plot_predicted_vs_actual", "plot_residuals", "plot_residual_distribution")


def brightness(f):
    from PIL import Image
    return float(np.asarray(Image.open(f)).mean())


class Mean(nn.Module):
    "A model whose answer is known: the mean of the picture, scaled."
    def __init__(self, k=1): super().__init__(); self.scale = nn.Parameter(torch.full((k,), 200.)); self.shift = nn.Parameter(torch.zeros(k))
    def forward(self, x): return x.mean((1, 2, 3))[:, None]*self.scale + self.shift


@pytest.fixture(scope="module")
def images():
    files = sorted(get_image_files(digit_folder()))[::12]
    block = DataBlock((ImageBlock, RegressionBlock), get_y=brightness, splitter=IndexSplitter(range(60, len(files))))
    return Learner(block.dataloaders(files, bs=16, num_workers=0), Mean(), loss_func=MSELossFlat())


def table(y_names="target", n=200):
    df = load_diabetes(as_frame=True, scaled=False).frame[:n]; df["old"] = np.where(df.age > 50, "yes", "no")
    names = [y_names] if isinstance(y_names, str) else y_names
    to = TabularPandas(df, [Categorify, FillMissing, Normalize], cat_names=["old"], cont_names=[c for c in df if c not in (*names, "old")], y_names=y_names, y_block=RegressionBlock(n_out=len(names)),
                       splits=RandomSplitter(.5, seed=0)(df))
    torch.manual_seed(0)
    return tabular_learner(to.dataloaders(bs=32), layers=[8], n_out=len(names)), df


def test_image_regression_draws_top_losses_and_results(images):
    interp = interpret(images, progress=False); assert type(interp) is RegressionInterpretation
    t, axs = interp.residuals(), interp.plot_top_losses(6, ncols=3); losses, rows = interp.top_losses(6)
    for ax, r, l in zip(axs, rows.tolist(), losses.tolist()):
        assert ax.images and ax.get_title() == f"{t.predicted[r]:.4g} / {t.target[r]:.4g}\n{t.residual[r]:+.3g} · {l:.3g}"
        assert abs(t.target[r] - brightness(t.item[r])) < 1e-3, "the picture's own target"
        shown = np.asarray(ax.images[0].get_array()).squeeze(); shown = shown[..., 0] if shown.ndim == 3 else shown
        assert abs(shown.mean()*255 - t.target[r]) < 1, "the picture's own pixels"
    assert all(ax.images for ax in interp.show_results([4, 0])) and all(ax.images for ax in show_results(images, max_n=3)) and all(ax.images for ax in plot_predictions(images, max_n=2))
    for name in PICTURES: assert np.ravel(getattr(interp, name)())[0].has_data()


def test_image_regression_numbers(images, count_rows):
    seen = count_rows(images); interp = RegressionInterpretation.from_learner(images); m = interp.metrics(ci=True); interp.findings(); interp.plot_residuals(); interp.to_frame()
    assert sum(seen) == len(interp)
    t = interp.residuals(); assert abs(m.value.r2 - skm.r2_score(t.target, t.predicted)) < 1e-6 and abs(m.value.loss - skm.mean_squared_error(t.target, t.predicted)) < 1e-2
    assert (m.low.mae, m.high.mae) == bootstrap(interp.predictions, "mae")[1:]


def test_tabular_regression_draws_each_row_of_its_own():
    learn, df = table(); interp = interpret(learn, progress=False); t = interp.residuals()
    assert interp.names == ["target"] and np.allclose(t.target, df.target[t.item], atol=1e-3)
    axs = interp.plot_top_losses(4); _, rows = interp.top_losses(4)
    for ax, r in zip(axs, rows.tolist()):
        text = ax.texts[0].get_text(); assert f"{df.age[t.item[r]]:.4g}" in text.split("age")[1].split()[0] and "old" in text
    by = interp.errors_by("old"); assert set(by.index) == {"yes", "no"} and by.n["yes"] == (df.old[t.item] == "yes").sum()
    assert abs(by.mae["no"] - t.residual.abs()[(df.old[t.item] == "no").to_numpy()].mean()) < 1e-3
    assert interp.plot_errors_by("bmi").has_data() and all(ax.texts for ax in interp.show_results(3))


def test_the_data_set_is_as_it_was():
    learn, _ = table(); before = learn.dls.valid.dataset.items.copy(); interp = interpret(learn, progress=False)
    interp.plot_errors_by("age"); interp.plot_top_losses(3); interp.errors_by("old"); pd.testing.assert_frame_equal(before, learn.dls.valid.dataset.items)


def test_several_tabular_targets_have_names_and_panels():
    learn, df = table(["s4", "target"]); interp = interpret(learn, progress=False); t = interp.to_frame()
    assert interp.names == ["s4", "target"] and np.allclose(t.target_s4, df.s4[t.item], atol=1e-3) and np.allclose(t.residual_target, t.predicted_target - t.target_target, atol=1e-3)
    both = t[["target_s4", "target_target"]], t[["predicted_s4", "predicted_target"]]
    assert abs(interp.metrics()["r2"] - skm.r2_score(*both)) < 1e-5 and np.allclose(interp.per_target().mae, skm.mean_absolute_error(*both, multioutput="raw_values"), rtol=1e-5)
    for name in PICTURES[:2]: assert len(getattr(interp, name)()) == 2
    title = interp.plot_top_losses(1)[0].get_title(); assert "s4: " in title and "target: " in title and "loss" in title
    assert {f.classes for f in interp.findings()} <= {("s4",), ("target",)}


@pytest.mark.parametrize("shape", [(40,), (40, 1), (40, 3)])
def test_plain_torch(shape):
    g = torch.Generator().manual_seed(0); x = torch.randn(40, 4, generator=g); y = torch.randn(shape, generator=g); k = shape[1] if len(shape) > 1 else 1
    net = nn.Sequential(nn.Linear(4, k), nn.Flatten(0)) if len(shape) == 1 else nn.Linear(4, k)
    interp = interpret(as_learner(net, DataLoader(list(zip(x, y)), batch_size=7, shuffle=True), nn.MSELoss()), progress=False)
    out = net(x).detach(); assert torch.allclose(interp.preds, out, atol=1e-6) and torch.equal(interp.targs, y)
    assert abs(interp.metrics()["rmse"] - skm.root_mean_squared_error(y.numpy().reshape(40, -1), out.numpy().reshape(40, -1))) < 1e-5
    assert len(interp.plot_top_losses(3)) == 3 and len(interp.to_frame()) == 40 and np.ravel(interp.plot_residuals())[0].has_data()


def test_a_loss_of_its_own_and_infinite_predictions():
    x, y = torch.randn(30, 2), torch.randn(30, 1); net = nn.Linear(2, 1)
    class Blows(nn.Module):
        def __init__(self): super().__init__(); self.net = net
        def forward(self, x): out = self.net(x).clone(); out[x[:, 0] > 1.5] = float("inf"); return out
    x[5, 0] = 2.; interp = interpret(as_learner(Blows(), DataLoader(list(zip(x, y)), batch_size=8), L1LossFlat()), progress=False); bad = (x[:, 0] > 1.5).nonzero().flatten().tolist()
    m = interp.metrics(ci=True); assert m.value.isna().drop("loss").all() and f"row {bad[0]}" in interp.metrics().reasons["r2"]
    assert interp.findings()[0].type == "not_finite" and set(interp.findings()[0].rows) == set(bad)
    for name in PICTURES: getattr(interp, name)()
    interp.plot_top_losses(2); assert np.isinf(interp.to_frame().predicted[bad[0]])


def marks(fig):
    "How many points, lines, bars and letters a figure has."
    from matplotlib.collections import Collection
    from matplotlib.lines import Line2D
    size = lambda o: len(o.get_xdata()) if isinstance(o, Line2D) else len(o.get_offsets()) + len(o.get_paths()) if isinstance(o, Collection) else 1
    return sum(size(o) for o in fig.findobj())


def test_a_million_rows_are_drawn_with_few_marks():
    r = np.random.default_rng(0); p = r.normal(size=1_000_000).astype("f4"); interp = RegressionInterpretation.from_predictions(Predictions.from_arrays(p, p + r.standard_t(3, 1_000_000).astype("f4"), task="regression"))
    for name in PICTURES:
        fig = np.ravel(getattr(interp, name)())[0].figure; fig.canvas.draw(); assert marks(fig) < 10_000, name
    assert "beyond the frame" in interp.plot_residuals().get_title()


ODD = ["Füße in $ and _ under", "猫", "a name of a target that goes on and on, far longer than any axis would like it to be"]


def test_odd_names_of_targets(tmp_path):
    r = np.random.default_rng(0); t = r.normal(size=(60, 3)); p = Predictions.from_arrays(t + r.normal(size=(60, 3)), t, task="regression"); p.meta["target_names"] = ODD
    interp = RegressionInterpretation.from_predictions(p); assert interp.names == ODD
    for name in PICTURES: np.ravel(getattr(interp, name)())[0].figure.savefig(tmp_path/"x.png")
    page = write_folder(interp, tmp_path/"out").read_text(); assert "猫" in page and "targets.csv" in page and "3 targets" in page
    assert interp.plot_residuals(target="猫") is not None and interp.plot_errors_by(np.repeat(["<b>x</b>", "$y$"], 30)) is not None


def test_equal_names_and_wrong_asks():
    p = Predictions.from_arrays(np.eye(6)[:, :2], np.eye(6)[:, :2] + 1, task="regression"); p.meta["target_names"] = ["x", "x"]
    interp = RegressionInterpretation.from_predictions(p); assert {"target_x (0)", "target_x (1)"} <= set(interp.to_frame())
    with pytest.raises(DataError, match="no target 'z'"): interp.plot_residuals(target="z")
    with pytest.raises(TaskError, match="predictions of the task classification"): RegressionInterpretation.from_predictions(Predictions.from_arrays([[.5, .5]], [0]))
    with pytest.raises(TaskError, match="task classification, but regression"): regression_metrics(Predictions.from_arrays([[.5, .5]], [0]))


def test_one_row_and_no_spread():
    for n, v in ((1, 1.), (30, 2.)):
        interp = RegressionInterpretation.from_predictions(Predictions.from_arrays(np.full(n, v), np.full(n, v), task="regression"))
        interp.metrics(ci=True); assert interp.findings() == [] and np.isnan(interp.metrics()["r2"])
        for name in PICTURES: getattr(interp, name)()


def test_the_folder_of_a_real_learner(images, tmp_path):
    page = write_folder(interpret(images, progress=False), tmp_path/"out"); facts = json.loads((tmp_path/"out"/"metrics.json").read_text())
    assert {"top_losses.png", "residuals.png", "predicted_vs_actual.png", "residual_distribution.png"} <= {f.name for f in page.parent.iterdir()} and "not drawn" not in page.read_text()
    frame = pd.read_csv(tmp_path/"out"/"predictions.csv"); assert abs(facts["values"]["mae"] - frame.residual.abs().mean()) < 1e-4 and "R²" in facts["headline"] and "http" not in page.read_text()
