"What fastai's own classes get wrong or refuse: right numbers here, or a clear error."
import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
import sklearn.metrics as skm
from fastai.vision.all import (CategoryBlock, DataBlock, ImageBlock, CrossEntropyLossFlat, LabelSmoothingCrossEntropyFlat, Learner, MixUp, IndexSplitter, aug_transforms, load_learner, parent_label)
from interp_kit.all import (ClassificationInterpretation, DataError, InterpKitError, ModelError, Predictions, TaskError, as_learner, capture, interpret)
from interp_kit.demo import demo_learner

pytestmark = pytest.mark.filterwarnings("ignore")


def with_loss(digits, loss, **kw): return Learner(digits.dls, digits.model, loss_func=loss, **kw)


def logits(digits):
    outs, ys = [], []
    with torch.no_grad():
        for x, y in digits.dls.valid: outs.append(torch.Tensor(digits.model.eval()(x))); ys.append(torch.Tensor(y).long())
    return torch.cat(outs), torch.cat(ys)


@pytest.fixture(scope="module")
def truth(digits): return logits(digits)


def all_four(interp): interp.confusion_matrix(); interp.plot_confusion_matrix(); interp.most_confused(); interp.print_classification_report()


def test_plain_cross_entropy(digits, truth):
    interp = ClassificationInterpretation.from_learner(with_loss(digits, nn.CrossEntropyLoss())); all_four(interp)
    z, y = truth
    assert torch.allclose(interp.preds, z.softmax(1), atol=1e-5) and torch.allclose(interp.losses, F.cross_entropy(z, y, reduction="none"), atol=1e-4)


def test_custom_loss_without_reduction(digits, truth):
    def margin_loss(pred, targ): return F.multi_margin_loss(pred, torch.Tensor(targ).long())
    p = capture(with_loss(digits, margin_loss), progress=False); z, y = truth
    assert p.task == "classification" and torch.allclose(p.losses, F.multi_margin_loss(z, y, reduction="none"), atol=1e-4) and "row by row" in p.meta["loss"]
    assert torch.allclose(p.preds, z.softmax(1), atol=1e-5)


W = torch.linspace(.2, 3, 10)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(weight=W), CrossEntropyLossFlat(weight=W), nn.CrossEntropyLoss(weight=W, label_smoothing=.1), LabelSmoothingCrossEntropyFlat(eps=.1),
                                  lambda p, t: F.cross_entropy(p, t, weight=W)], ids=["torch", "fastai", "torch-smooth", "fastai-smooth", "closure"])
def test_weights_and_smoothing_give_the_losses_of_the_whole_set(digits, truth, loss):
    z, y = truth; p = capture(with_loss(digits, loss), progress=False)
    whole = float(loss(z, y))
    if loss.__class__.__name__ == "function": whole = float(F.cross_entropy(z, y))  # the weights are out of sight in a closure, and cancel in a row
    assert abs(float(p.losses.double().mean()) - whole) < 1e-4
    assert abs(float(capture(with_loss(digits, loss), digits.dls.valid.new(bs=7), progress=False).losses.double().mean()) - whole) < 1e-4


def test_mixup_learner(digits):
    learn = with_loss(digits, CrossEntropyLossFlat(), cbs=MixUp()); p = capture(learn, progress=False)
    assert torch.allclose(p.preds, capture(digits, progress=False).preds) and [c.name for c in learn.cbs][-1] == "mix_up"


def test_exported_and_reloaded(digits, tmp_path):
    digits.export(tmp_path/"m.pkl"); again = load_learner(tmp_path/"m.pkl")
    with pytest.raises(DataError, match="empty.*with_labels=True"): ClassificationInterpretation.from_learner(again)
    items = digits.dls.valid_ds.items[:30]
    p = capture(again, again.dls.test_dl(items, with_labels=True), progress=False); q = capture(digits, progress=False)[:30]
    assert torch.allclose(p.preds, q.preds, atol=1e-6) and torch.equal(p.targs, q.targs) and list(p.items) == [str(f) for f in items]


def test_unlabelled_loader(digits):
    with pytest.raises(DataError, match="no targets.*with_labels=True"): capture(digits, digits.dls.test_dl(digits.dls.valid_ds.items[:5]), progress=False)


def test_training_set_without_augmentation_and_shuffle(digits):
    files = list(digits.dls.valid_ds.items)[:150]
    block = DataBlock((ImageBlock, CategoryBlock), get_y=parent_label, splitter=IndexSplitter(range(100, 150)), batch_tfms=aug_transforms(max_rotate=45, flip_vert=True))
    dls = block.dataloaders(files, bs=32, num_workers=0, shuffle=True); learn = Learner(dls, digits.model, loss_func=CrossEntropyLossFlat())
    dls.vocab  # the same ten classes
    a, b = (capture(learn, ds_idx=0, progress=False) for _ in range(2))
    plain = capture(digits, digits.dls.test_dl(files[:100], with_labels=True), progress=False)
    assert len(a) == 100 and torch.equal(a.losses, b.losses) and torch.allclose(a.preds, plain.preds, atol=1e-5) and list(a.items) == [str(f) for f in files[:100]]
    x1, x2 = dls.train.one_batch()[0], dls.train.one_batch()[0]
    assert not torch.equal(x1, x2) and dls.train.shuffle, "training still augments and shuffles"
    inp, *_ = ClassificationInterpretation.from_predictions(a, learn, dls.train)[[3]]
    assert torch.allclose(torch.Tensor(inp)[0], torch.Tensor(plain_input(digits, files[3])), atol=1e-5)


def plain_input(digits, f): return digits.dls.test_dl([f]).one_batch()[0][0]


def test_text_rows_keep_their_own_losses():
    learn = demo_learner("text"); interp = ClassificationInterpretation.from_learner(learn); dl = learn.dls.valid
    losses, rows = interp.top_losses(8)
    inp, preds, targs, dec, got = interp[rows]
    assert torch.equal(got, losses)
    for j, r in enumerate(rows.tolist()):
        one, *_ = interp[[r]]; text = [t for t in torch.Tensor(inp[j]).long().tolist() if t != 1]
        assert text == [t for t in torch.Tensor(one[0]).long().tolist() if t != 1] == torch.Tensor(dl.dataset[r][0]).long().tolist(), "input of another row"
        out = learn.model.eval(); learn.model.reset()
        with torch.no_grad(): z = out(torch.Tensor(one).long())[0]
        assert abs(float(F.cross_entropy(z, targs[j:j+1])) - float(losses[j])) < 5e-3, "loss of another row"
    lengths = [len(dl.dataset[i][0]) for i in range(20)]
    assert lengths != sorted(lengths, reverse=True), "the data set itself is not sorted"


def test_text_and_tabular_draw(digits):
    for task in ("text", "tabular"):
        interp = interpret(demo_learner(task), progress=False); axs = interp.plot_top_losses(4)
        assert len(axs) == 4 and all(ax.texts and ax.texts[0].get_text().strip() for ax in axs) and "/" in axs[0].get_title()
    from sklearn.datasets import load_wine
    shown, item = axs[0].texts[0].get_text(), interp.predictions.items[int(interp.top_losses(1)[1])]
    alcohol = float(shown.split("alcohol")[1].split()[0])
    assert abs(alcohol - load_wine(as_frame=True).data.alcohol[item]) < 5e-3, "columns are shown in their own units, for their own row"


class TwoHeads(nn.Module):
    def __init__(self): super().__init__(); self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 1)
    def forward(self, x): return self.a(x), self.b(x)


def two_targets():
    g = torch.Generator().manual_seed(0); x = torch.randn(30, 4, generator=g); return x, torch.randint(0, 3, (30,), generator=g), torch.randn(30, 1, generator=g)


def test_several_outputs():
    x, y, v = two_targets(); torch.manual_seed(0)
    loss = lambda pred, t, u: F.cross_entropy(pred[0], t) + F.mse_loss(pred[1], u)
    dl = DataLoader(list(zip(x, y, v)), batch_size=8, shuffle=True)
    from fastai.data.core import DataLoaders
    dls = DataLoaders(dl, dl); dls.n_inp = 1
    learn = Learner(dls, TwoHeads(), loss_func=loss)
    interp = interpret(learn, progress=False); p = interp.predictions
    with torch.no_grad(): a, b = learn.model(x)
    assert p.task == "multi_output" and torch.allclose(p.preds[0], a.softmax(1), atol=1e-6) and torch.allclose(p.preds[1], b, atol=1e-6)
    assert torch.equal(p.targs[0], y) and torch.equal(p.decoded[0], a.argmax(1))
    assert torch.allclose(p.losses, F.cross_entropy(a, y, reduction="none") + ((b - v)**2).squeeze(1), atol=1e-5)
    assert {"target_0", "predicted_0", "loss"} <= set(interp.to_frame()) and len(interp.plot_top_losses(2)) == 2
    with pytest.raises(TaskError, match="predictions of the task multi_output"): ClassificationInterpretation.from_learner(learn)


def test_loader_of_dicts():
    x, y, _ = two_targets(); rows = [dict(image=a, label=int(b)) for a, b in zip(x, y)]; net = nn.Linear(4, 3)
    p = capture(as_learner(net, DataLoader(rows, batch_size=7, shuffle=True), nn.CrossEntropyLoss(), vocab=list("abc")), progress=False)
    assert torch.allclose(p.preds, net(x).softmax(1).detach(), atol=1e-6) and torch.equal(p.targs, y)
    with pytest.raises(DataError, match="none of which is a target"): as_learner(net, DataLoader([dict(image=a) for a in x], batch_size=4))


def plain(out, y, **kw):
    "A learner whose model hands its input on, so that tests choose the logits."
    return as_learner(nn.Identity(), [(out, y)], kw.pop("loss", nn.CrossEntropyLoss()), **kw)


def test_one_class():
    interp = interpret(plain(torch.randn(5, 1), torch.zeros(5).long(), vocab=["only"]), progress=False)
    assert interp.confusion_matrix().tolist() == [[5]] and interp.metrics()["accuracy"] == 1 and interp.metrics().reasons["roc_auc_ovr_macro"]
    interp.plot_confusion_matrix(); interp.print_classification_report(); interp.plot_calibration(); assert interp.most_confused() == [] and interp.findings() == []
    with pytest.raises(DataError, match="no curve"): interp.plot_roc()


def test_class_absent_from_validation():
    r = np.random.default_rng(0); z = torch.from_numpy(r.normal(size=(60, 4)).astype(np.float32)); y = torch.from_numpy(r.integers(0, 3, 60))
    interp = interpret(plain(z, y, vocab=list("abcd")), progress=False)
    assert interp.confusion_matrix().shape == (4, 4) and np.isnan(interp.classification_report().loc["d", "recall"])
    assert "1 class without rows" in interp.metrics().notes["recall_macro"]
    interp.plot_roc(); interp.plot_pr(); all_four(interp)


def test_nan_logits_and_non_finite_losses():
    z = torch.randn(40, 3); z[7] = float("nan"); z[9, 0] = float("inf"); y = torch.randint(0, 3, (40,))
    interp = interpret(plain(z, y), progress=False)
    with pytest.warns(UserWarning, match="losses are NaN"): losses, rows = interp.top_losses(2)
    assert set(rows.tolist()) == {7, 9} and interp.findings()[0].type == "not_finite" and set(interp.findings()[0].rows) == {7, 9}
    m = interp.metrics(); assert np.isfinite(m["accuracy"]) and np.isnan(m["log_loss"]) and "row 7" in m.reasons["log_loss"]
    with pytest.raises(DataError, match="not finite"): interp.plot_calibration()
    interp.plot_top_losses(3); all_four(interp); interp.metrics(ci=True)


def test_infinite_loss_of_a_certain_mistake():
    z = torch.tensor([[200., 0], [0, 1], [3, 0]]); p = capture(plain(z.softmax(1), torch.tensor([1, 1, 0]), loss=nn.NLLLoss()), progress=False)
    assert len(p) == 3
    interp = ClassificationInterpretation.from_predictions(Predictions.from_arrays(z.softmax(1), [1, 1, 0], losses=[np.inf, .3, .1]))
    assert interp.top_losses(1)[1].tolist() == [0] and any(f.type == "not_finite" for f in interp.findings())


NAMES = ["Füße 猫 чай", "a class with a name that goes on and on, far longer than any axis would like it to be", "<b>bold & \"quoted\"</b>", "$x_1$ _under_", ""]


def test_odd_names(tmp_path):
    z, y = torch.randn(50, 5), torch.randint(0, 5, (50,)); interp = interpret(plain(z, y, vocab=NAMES), progress=False)
    all_four(interp); interp.plot_roc().figure.savefig(tmp_path/"roc.png"); interp.plot_confusion_matrix().figure.savefig(tmp_path/"cm.png")
    from interp_kit.all import write_folder
    page = write_folder(interp, tmp_path/"out").read_text(); assert "<b>bold" not in page
    assert set(interp.to_frame().target) <= set(NAMES)


def test_thousand_classes():
    r = np.random.default_rng(0); y = torch.from_numpy(r.integers(0, 1000, 4000)); z = torch.from_numpy(r.normal(size=(4000, 1000)).astype(np.float32)); z[range(4000), y] += 4
    interp = interpret(plain(z, y, vocab=[f"class {i}" for i in range(1000)]), progress=False); t, d = y.numpy(), interp.decoded.numpy()
    assert np.array_equal(interp.confusion_matrix().numpy(), skm.confusion_matrix(t, d, labels=range(1000)))
    ax = interp.plot_confusion_matrix(); assert len(ax.get_xticklabels()) <= 40 and "25 of 1,000" in ax.get_title()
    all_four(interp); interp.plot_roc(); interp.findings()


def test_wrong_number_of_outputs_and_wrong_targets():
    x, y, _ = two_targets()
    with pytest.raises(ModelError, match="3 outputs, but the data has 2 classes"): capture(as_learner(nn.Linear(4, 3), DataLoader(list(zip(x, y)), batch_size=8), nn.CrossEntropyLoss(), vocab=["a", "b"]), progress=False)
    with pytest.raises(InterpKitError): capture(as_learner(nn.Flatten(0), DataLoader(list(zip(x, y)), batch_size=8), nn.CrossEntropyLoss(), task="classification"), progress=False)


@pytest.mark.parametrize("bad", [3, None, "model", nn.Linear(2, 2)])
def test_not_a_learner(bad):
    with pytest.raises(TaskError, match="as_learner"): capture(bad)


def test_class_called_with_a_learner(digits):
    with pytest.raises(TaskError, match=r"ClassificationInterpretation.from_learner\(learn\)"): ClassificationInterpretation(digits)


def test_binary_with_one_logit_and_nll():
    g = torch.Generator().manual_seed(0); x, y = torch.randn(40, 1, generator=g), torch.randint(0, 2, (40,), generator=g)
    p = capture(plain(x, y.float()[:, None], loss=nn.BCEWithLogitsLoss()), progress=False)
    assert p.preds.shape == (40, 2) and torch.allclose(p.preds[:, 1], x.sigmoid().squeeze(1)) and torch.equal(p.targs, y)
    q = capture(plain(torch.cat([torch.zeros_like(x), x], 1).log_softmax(1), y, loss=nn.NLLLoss()), progress=False)
    assert torch.allclose(q.preds, p.preds, atol=1e-6) and torch.allclose(q.losses, p.losses, atol=1e-5)


def test_half_precision_outputs():
    z, y = torch.randn(20, 3), torch.randint(0, 3, (20,)); p = capture(plain(z.half(), y, loss=lambda o, t: F.cross_entropy(o.float(), t)), progress=False)
    assert p.preds.dtype == torch.float32 and torch.allclose(p.preds, z.softmax(1), atol=5e-3)


def test_samplers_select_and_loaders_sort():
    from torch.utils.data import SubsetRandomSampler
    x, y, _ = two_targets(); ds, net = list(zip(x, y)), nn.Linear(4, 3); keep = [20, 3, 11, 4]
    p = capture(as_learner(net, DataLoader(ds, batch_size=3, sampler=SubsetRandomSampler(keep)), nn.CrossEntropyLoss()), progress=False)
    assert p.rows.tolist() == sorted(keep) and torch.equal(p.targs, y[sorted(keep)])
    by_length = DataLoader(ds, batch_sampler=[[5, 1], [2, 9, 0], [7]])
    q = capture(as_learner(net, by_length, nn.CrossEntropyLoss()), progress=False)
    assert q.rows.tolist() == [0, 1, 2, 5, 7, 9] and torch.allclose(q.preds, net(x[q.rows]).softmax(1).detach(), atol=1e-6)
