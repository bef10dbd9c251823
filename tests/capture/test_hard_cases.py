"Loaders, losses, callbacks and names that broke something once."
import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler
from fastai.callback.core import Callback
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback, TerminateOnNaNCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, LabelSmoothingCrossEntropyFlat
from fastai.metrics import accuracy
from interp_kit.demo import demo_learner
from interp_kit.all import (ClassificationInterpretation, DataError, Interpretation, LabelError, ModelError, PredictionAnalyzer, as_learner, capture, find_layer, interpret)

pytestmark = pytest.mark.filterwarnings("ignore")
G = torch.Generator().manual_seed(0)
X, Y = torch.randn(70, 5, generator=G), torch.randint(0, 3, (70,), generator=G)
DS = TensorDataset(X, Y)


def net(o=3): torch.manual_seed(1); return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, o))
def learner(model=None, loss=None, targets=Y, **kw):
    ds = TensorDataset(X, targets); return Learner(DataLoaders.from_dsets(ds, ds, bs=16), model or net(), loss_func=loss or nn.CrossEntropyLoss(), **kw)


class ReadsLoss(Callback):
    def after_batch(self): self.seen = self.loss.item()


@pytest.mark.parametrize("cb", [lambda p: SaveModelCallback(monitor="accuracy"), lambda p: EarlyStoppingCallback(monitor="accuracy"), lambda p: ReduceLROnPlateau(monitor="accuracy"), lambda p: TerminateOnNaNCallback(),
                                lambda p: ReadsLoss()], ids=["save", "stop", "plateau", "nan", "reads loss"])
def test_callbacks_that_watch_metrics_or_the_loss(cb, tmp_path):
    learn = learner(metrics=accuracy, cbs=cb(tmp_path)); learn.path = tmp_path
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    p = capture(learn, progress=False); assert torch.allclose(p.preds, learn.model.eval()(X).softmax(1), atol=1e-6)


@pytest.mark.parametrize("targets", [(Y > 0).long(), (Y > 0).float(), (Y > 0).float()[:, None]], ids=["int", "float", "column"])
@pytest.mark.parametrize("squeeze", [False, True])
def test_one_logit_binary(targets, squeeze):
    model = nn.Sequential(net(1), nn.Flatten(0)) if squeeze else net(1)
    for learn in (learner(model, BCEWithLogitsLossFlat(), targets), as_learner(model, DataLoader(TensorDataset(X, targets), 16))):
        p = capture(learn, progress=False); want = model(X).reshape(-1).sigmoid().detach()
        assert p.task == "classification" and torch.allclose(p.preds[:, 1], want, atol=1e-6) and torch.equal(p.targs, (Y > 0).long())
        assert torch.allclose(p.losses, F.binary_cross_entropy(want, (Y > 0).float(), reduction="none"), atol=1e-5)


def test_weights_on_fastais_label_smoothing():
    w = torch.tensor([.3, 1., 4.]); loss = LabelSmoothingCrossEntropyFlat(weight=w); m = net()
    p = capture(learner(m, loss), progress=False); assert abs(float(p.losses.double().mean()) - float(loss(m(X), Y))) < 1e-5


class IgnoresReduction(nn.Module):
    reduction = "mean"
    def __init__(self, w): super().__init__(); self.weight = w
    def forward(self, p, t): return F.cross_entropy(p, t, weight=self.weight)


@pytest.mark.parametrize("bs", [16, 69, 70])
def test_a_loss_that_has_but_ignores_reduction(bs):
    w = torch.tensor([.3, 1., 4.]); m = net(); p = capture(as_learner(m, DataLoader(DS, bs), IgnoresReduction(w)), progress=False)
    assert abs(float(p.losses.double().mean()) - float(F.cross_entropy(m(X), Y, weight=w))) < 1e-5 and "row by row" in p.meta["loss"]


def test_task_by_loss_and_target():
    from torchvision.ops import sigmoid_focal_loss
    hot = F.one_hot(Y, 3).float(); p = capture(learner(loss=lambda o, t: sigmoid_focal_loss(o, t, reduction="mean"), targets=hot), progress=False); assert p.task == "multilabel"
    p = capture(learner(net(1), nn.PoissonNLLLoss(), torch.rand(70, 1, generator=G)*9), progress=False); assert p.task == "regression"


def test_outputs_that_look_like_probabilities_only_at_first():
    calm = torch.cat([torch.full((16, 2), .5), torch.randn(54, 2, generator=G)*5]); y = Y.clamp_max(1)
    p = capture(as_learner(nn.Identity(), DataLoader(TensorDataset(calm, y), 16), lambda o, t: F.cross_entropy(o, t), task="classification"), progress=False)
    assert torch.allclose(p.preds, calm.softmax(1), atol=1e-6)


@pytest.mark.parametrize("vocab", [["a$\\foo$", "_noise_", "c"], ["_", "$", "^{x}"]])
def test_names_that_mean_something_to_matplotlib(vocab, tmp_path):
    interp = interpret(as_learner(net(), DataLoader(DS, 16), nn.CrossEntropyLoss(), vocab=vocab), progress=False)
    axs = [interp.plot_confusion_matrix(), interp.plot_roc(), interp.plot_pr(), interp.plot_top_losses(3)[0], PredictionAnalyzer(interp).error_analysis().plot(), PredictionAnalyzer(interp).prediction_distribution().plot()[0]]
    for i, ax in enumerate(axs): ax.figure.savefig(tmp_path/f"{i}.png")
    assert len(axs[1].get_legend().get_texts()) == 3
    if "_noise_" in vocab: interp.print_classification_report()


def test_folded_matrix_shows_the_most_confused_classes():
    from interp_kit.interpret.classification import _fold_classes as fold_classes
    cm = np.eye(100, dtype=int)*50; cm[80:88, 80:88] += 900
    for k in range(50, 70, 2): cm[k, k + 1] = 500
    _, names = fold_classes(cm, [str(i) for i in range(100)], 25); assert {str(i) for i in [*range(80, 88), *range(50, 66)]} <= set(names)


class Times10(DataLoader):
    def __iter__(self):
        for x, y in super().__iter__(): yield x*10, y


def test_a_loader_with_its_own_iter_is_taken_as_it_comes():
    m = net(); assert torch.allclose(capture(as_learner(m, Times10(DS, 16), nn.CrossEntropyLoss()), progress=False).preds, m(X*10).softmax(1).detach(), atol=1e-6)


def test_report_is_numeric_and_base_class_names_the_classes(capsys):
    learn = as_learner(net(), DataLoader(DS, 16), nn.CrossEntropyLoss(), vocab=["ant", "bee", "cat"])
    interp = ClassificationInterpretation.from_learner(learn); assert (interp.classification_report().dtypes.iloc[:3] == float).all()
    title = Interpretation.from_learner(learn).plot_top_losses(1)[0].get_title(); assert title.split()[0] in ("ant", "bee", "cat") and title.count("/") == 2


class TwoInputs(nn.Module):
    def __init__(self): super().__init__(); self.c, self.f = nn.Conv2d(3, 4, 3), nn.Linear(6, 2)
    def forward(self, im, v): return self.f(torch.cat([self.c(im).relu().mean((2, 3)), v], 1))


def test_find_layer_with_two_inputs_dicts_and_wrong_guesses():
    im, v, y = torch.randn(8, 3, 16, 16), torch.randn(8, 2), torch.randint(0, 2, (8,))
    m = TwoInputs(); assert find_layer(as_learner(m, DataLoader(TensorDataset(im, v, y), 4), nn.CrossEntropyLoss())) is m.c
    lenet = nn.Sequential(nn.Conv2d(1, 4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(4*24*24, 10))
    with pytest.raises(ModelError, match="Pass x"): find_layer(lenet)
    assert find_layer(lenet, x=torch.randn(1, 1, 28, 28)) is lenet[1]


def test_generators_of_loaders_stay_where_they_were():
    g = torch.Generator().manual_seed(3); dl = DataLoader(DS, 16, shuffle=True, generator=g); before = g.get_state()
    learn = as_learner(net(), dl, nn.CrossEntropyLoss()); p = capture(learn, progress=False); ClassificationInterpretation.from_predictions(p, learn, dl)[[1, 0]]
    assert torch.equal(g.get_state(), before)


def test_weighted_sampling_is_for_training_only():
    dl = DataLoader(DS, 16, sampler=WeightedRandomSampler(torch.rand(70), 70)); assert capture(as_learner(net(), dl, nn.CrossEntropyLoss()), progress=False).rows.tolist() == list(range(70))


def test_workers_with_timeout_and_lists_of_dicts():
    interp = interpret(as_learner(net(), DataLoader(DS, 16, num_workers=1, timeout=20), nn.CrossEntropyLoss()), progress=False); assert torch.equal(interp[[5, 2]][0], X[[5, 2]])
    p = capture(as_learner(net(), [dict(x=X[:40], y=Y[:40]), dict(x=X[40:], y=Y[40:])], nn.CrossEntropyLoss()), progress=False); assert torch.equal(p.targs, Y)


def test_ignored_targets_are_a_clear_error():
    y = Y.clone(); y[3] = -100
    for loss in (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(weight=torch.ones(3)*2)):
        with pytest.raises(LabelError, match="class -100.*ignored"): capture(learner(loss=loss, targets=y), progress=False)


@pytest.mark.parametrize("samples", [{"a": 1}, [("x.png", 0)]])
def test_samples_of_a_data_set_that_are_no_items(samples):
    ds = TensorDataset(X, Y); ds.samples = samples; assert capture(as_learner(net(), DataLoader(ds, 16), nn.CrossEntropyLoss()), progress=False).items is None


def test_folder_names_are_the_vocabulary(tmp_path):
    from PIL import Image
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import ToTensor
    for c in ("ant", "bee"):
        (tmp_path/c).mkdir()
        for i in range(3): Image.new("RGB", (8, 8), (i*80, 0, 0)).save(tmp_path/c/f"{i}.png")
    p = capture(as_learner(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), DataLoader(ImageFolder(tmp_path, ToTensor()), 4), nn.CrossEntropyLoss()), progress=False)
    assert p.vocab == ["ant", "bee"] and p.items[0].endswith("0.png")


def test_a_plain_learner_can_be_fitted():
    learn = as_learner(net(), DataLoader(DS, 16), nn.CrossEntropyLoss())
    with learn.no_bar(), learn.no_logging(): learn.fit(1)


def test_column_against_flat_targets_is_not_broadcast():
    y = torch.randn(70, generator=G); m = net(1); p = capture(as_learner(m, DataLoader(TensorDataset(X, y), 16), nn.MSELoss()), progress=False)
    assert torch.allclose(p.losses, (m(X).squeeze(1) - y).detach()**2, atol=1e-5)


def test_missing_files_and_odd_counts(digits):
    interp = ClassificationInterpretation.from_learner(digits)
    for bad in (0, -1, []):
        with pytest.raises(DataError): interp.plot_top_losses(bad)
    with pytest.raises(DataError): interp.show_results(0)
    assert len(interp.plot_top_losses(np.int64(2))) == 2 and len(interp.plot_top_losses(slice(1, 3))) == 2 and len(interp.show_results(np.int64(3))) == 3


MADE = dict(
    text=lambda: (demo_learner("text"), None),
    list=lambda: (learner(), [(X[:40], Y[:40]), (X[40:], Y[40:])]),
    loader=lambda: (learner(), DataLoader(DS, 16)),
    images=lambda: (demo_learner(), None))


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_the_data_has_one_fingerprint_in_memory_and_on_disk(make, tmp_path):
    learn, dl = make()
    here = capture(learn, dl, progress=False)
    there = capture(learn, dl, path=tmp_path/"p", progress=False)
    assert here.meta["dataset_fingerprint"] == there.meta["dataset_fingerprint"]
    assert here.meta["model_hash"] == there.meta["model_hash"]
    assert here.meta["loss"] == there.meta["loss"]
