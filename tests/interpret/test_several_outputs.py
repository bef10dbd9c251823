"Models with several outputs or targets: each output in the words of its task, the row as a whole."
import json
import numpy as np, pandas as pd, pytest, torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
import sklearn.metrics as skm
from fastai.data.core import DataLoaders
from fastai.text.all import TextBlock
from fastai.vision.all import CategoryBlock, DataBlock, ImageBlock, IndexSplitter, Learner, MultiCategoryBlock, RandomSplitter, RegressionBlock, get_image_files, parent_label
from interp_kit.all import (ClassificationInterpretation, DataError, Interpretation, MultiOutputInterpretation, Predictions, RegressionInterpretation, TaskError, capture, interpret, write_folder)
from interp_kit.demo import digit_folder, generated_sentences

pytestmark = pytest.mark.filterwarnings("ignore")


def brightness(f):
    from PIL import Image
    return float(np.asarray(Image.open(f)).mean())/255


class Heads(nn.Module):
    "A body and heads; answers are a tuple."
    def __init__(self, body, n, *sizes): super().__init__(); self.body, self.heads = body, nn.ModuleList([nn.Linear(n, s) for s in sizes])
    def forward(self, x): x = self.body(x); return tuple(h(x) for h in self.heads)


def both(pred, y, v): return F.cross_entropy(pred[0], torch.Tensor(y).long()) + F.mse_loss(pred[1].squeeze(-1), torch.Tensor(v))


def learner():
    files = sorted(get_image_files(digit_folder()))[::12]
    block = DataBlock((ImageBlock, CategoryBlock, RegressionBlock), n_inp=1, get_y=[parent_label, brightness], splitter=IndexSplitter(range(0, len(files), 3)))
    torch.manual_seed(0)
    return Learner(block.dataloaders(files, bs=16, num_workers=0), Heads(nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten()), 48, 10, 1), loss_func=both)


@pytest.fixture(scope="module")
def images(): return learner()


def test_two_heads_of_an_image(images, count_rows):
    seen = count_rows(images); interp = interpret(images, progress=False); assert type(interp) is MultiOutputInterpretation
    kind, value = interp.outputs; t = interp.to_frame(); m = interp.metrics(ci=True)
    assert (type(kind), type(value), kind.vocab) == (ClassificationInterpretation, RegressionInterpretation, list("0123456789"))
    assert torch.allclose(interp.losses, kind.losses + value.losses, atol=1e-5) and list(t.item) == [str(f) for f in images.dls.valid_ds.items]
    assert abs(m.value["output 0.accuracy"] - (t.target_0 == t.predicted_0).mean()) < 1e-9 and abs(m.value["output 1.r2"] - skm.r2_score(t.target_1, t.predicted_1)) < 1e-5
    assert list(t.target_0) == [parent_label(f) for f in t.item] and np.allclose(t.target_1, [brightness(f) for f in t.item], atol=1e-4)
    assert m.low["output 0.accuracy"] < m.value["output 0.accuracy"] < m.high["output 0.accuracy"] and m.low["loss"] < m.value["loss"]
    interp.findings(); kind.plot_confusion_matrix(); value.plot_residuals(); kind.plot_top_losses(2); value.plot_top_losses(2); sure = sum(seen); assert sure == len(interp), "one pass"


def test_a_row_is_drawn_once_with_a_line_for_each_output(images):
    interp = interpret(images, progress=False); interp.names = ["digit", "light"]; axs = interp.plot_top_losses(4); losses, rows = interp.top_losses(4); t = interp.to_frame()
    assert len(axs) == 4 and all(len(ax.images) == 1 for ax in axs)
    for ax, r, l in zip(axs, rows.tolist(), losses.tolist()):
        first, second, third = ax.get_title().splitlines()
        assert first == f"digit: {t.predicted_digit[r]} / {t.target_digit[r]} · {t.prob_target_digit[r]:.2f}" and second == f"light: {t.predicted_light[r]:.4g} / {t.target_light[r]:.4g}" and third == f"loss {l:.3g}"
        shown = np.asarray(ax.images[0].get_array()).squeeze(); assert abs((shown[..., 0] if shown.ndim == 3 else shown).mean() - t.target_light[r]) < 5e-3
    assert len(interp.show_results([2, 1])) == 2 and interp.output("light") is interp.output(1) is interp.outputs[1]


def test_three_outputs_one_with_several_labels():
    files = sorted(get_image_files(digit_folder()))[::20]; digit = lambda f: int(parent_label(f))
    labels = lambda f: [n for n, ok in (("even", digit(f) % 2 == 0), ("large", digit(f) > 4), ("round", digit(f) in (0, 6, 8, 9))) if ok]
    block = DataBlock((ImageBlock, CategoryBlock, MultiCategoryBlock, RegressionBlock), n_inp=1, get_y=[parent_label, labels, brightness], splitter=RandomSplitter(.5, seed=0))
    loss = lambda p, y, l, v: both((p[0], p[2]), y, v) + F.binary_cross_entropy_with_logits(p[1], torch.Tensor(l))
    learn = Learner(block.dataloaders(files, bs=16, num_workers=0), Heads(nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten()), 48, 10, 3, 1), loss_func=loss)
    interp = interpret(learn, progress=False); assert [o.predictions.task for o in interp.outputs] == ["classification", "multilabel", "regression"]
    assert interp.outputs[0].vocab == list("0123456789") and interp.outputs[1].vocab == ["even", "large", "round"]
    assert torch.allclose(interp.losses, sum(o.losses for o in interp.outputs), atol=1e-5)
    assert len(interp.plot_top_losses(3)) == 3 and len(interp.metrics()) > 12 and len(interp.to_frame()) == len(interp)


def test_text_with_two_targets():
    rows = [(s, l, float(len(s))/100) for s, l in generated_sentences(80)]; df = pd.DataFrame(rows, columns=["text", "label", "size"])
    from fastai.vision.all import ColReader
    block = DataBlock((TextBlock.from_df("text", seq_len=24), CategoryBlock, RegressionBlock), n_inp=1, get_x=ColReader("text"), get_y=[ColReader("label"), ColReader("size")], splitter=RandomSplitter(.5, seed=0))
    dls = block.dataloaders(df, bs=8, num_workers=0)
    class Bag(nn.Module):
        def __init__(self, n): super().__init__(); self.emb = nn.Embedding(n, 8, padding_idx=1)
        def forward(self, x): return self.emb(torch.Tensor(x).long()).sum(1)/20
    torch.manual_seed(0); learn = Learner(dls, Heads(Bag(len(dls.vocab[0])), 8, 2, 1), loss_func=both); interp = interpret(learn, progress=False); t = interp.to_frame()
    assert interp.outputs[0].vocab == ["neg", "pos"] and set(t.target_0) == {"neg", "pos"}
    axs = interp.plot_top_losses(3); _, at = interp.top_losses(3)
    for ax, r in zip(axs, at.tolist()):
        text = " ".join(ax.texts[0].get_text().split()); row = df.loc[t.item[r]]
        assert row.label == t.target_0[r] and abs(row["size"] - t.target_1[r]) < 1e-4 and row.text.split()[1] in text and f"/ {row.label}" in ax.get_title()


def torch_learner(model, data, loss):
    dl = DataLoader(data, batch_size=8, shuffle=True); dls = DataLoaders(dl, dl); dls.n_inp = 1
    return Learner(dls, model, loss_func=loss)


def plain(n=40): g = torch.Generator().manual_seed(0); x = torch.randn(n, 4, generator=g); return x, torch.randint(0, 3, (n,), generator=g), torch.randn(n, generator=g), torch.randn(n, 1, generator=g)


def test_numbers_as_inputs_are_drawn_too():
    x, y, v, _ = plain(); interp = interpret(torch_learner(Heads(nn.Identity(), 4, 3, 1), list(zip(x, y, v)), both), progress=False)
    axs = interp.plot_top_losses(2); assert "input 0" in axs[0].texts[0].get_text() and "output 1: " in axs[0].get_title() and interp.outputs[0].predictions.names == ["0", "1", "2"]


def test_one_output_layer_for_two_single_numbers():
    x, _, v, w = plain(); loss = lambda p, a, b: F.mse_loss(p[:, 0], a) + F.l1_loss(p[:, 1:], b)
    interp = interpret(torch_learner(nn.Linear(4, 2), list(zip(x, v, w)), loss), progress=False); a, b = interp.outputs
    assert torch.equal(a.targs.flatten(), v) and torch.equal(b.targs.flatten(), w.flatten()) and torch.equal(b.preds.flatten(), interp.preds[:, 1])
    assert abs(interp.metrics()["output 1.mae"] - float((interp.preds[:, 1:] - w).abs().mean())) < 1e-6 and len(interp.plot_top_losses(2)) == 2


def test_a_tensor_of_two_targets_is_a_plain_regression():
    x, _, v, w = plain(); interp = interpret(torch_learner(nn.Linear(4, 2), list(zip(x, torch.cat([v[:, None], w], 1))), nn.MSELoss()), progress=False)
    assert type(interp) is RegressionInterpretation and interp.names == ["target 0", "target 1"]


def test_more_outputs_than_targets_have_losses_and_a_reason():
    x, y, _, _ = plain(); interp = interpret(torch_learner(Heads(nn.Identity(), 4, 3, 5), list(zip(x, y)), lambda p, y: F.cross_entropy(p[0], y)), progress=False)
    assert type(interp) is MultiOutputInterpretation
    for ask in (lambda: interp.outputs, lambda: interp.names, lambda: interp.output(0)):
        with pytest.raises(DataError, match="2 outputs and the data 1 target.*Return one output for each target"): ask()
    assert list(interp.metrics()) == ["loss"] and "2 outputs and the data 1 target" in interp.metrics().notes["loss"] and interp.findings() == []
    assert len(interp.plot_top_losses(2)) == 2 and len(interp.to_frame()) == 40 and interp.metrics(ci=True).low["loss"] < interp.metrics()["loss"]


def test_planted_faults_carry_the_name_of_their_output():
    r = np.random.default_rng(0); n = 900; z = r.normal(size=(n, 3))*3; q = torch.tensor(np.exp(z)/np.exp(z).sum(1, keepdims=True)); y = torch.tensor((q.numpy().cumsum(1) < r.random((n, 1))).sum(1).clip(0, 2))
    v = torch.tensor(r.normal(size=n)); t = v + .3*torch.tensor(r.normal(size=n)) - .3; p = Predictions((q, v), (y, t), torch.rand(n), (q.argmax(1), v), task="multi_output")
    interp = MultiOutputInterpretation.from_predictions(p); interp.names = ["kind", "size"]; found = interp.findings()
    assert [f.title.split(":")[0] for f in found] == ["size"] and found[0].type == "bias" and found[0].id.startswith("size-bias")


def test_null_sets_stay_silent_with_two_outputs():
    from scipy.stats import binom
    spoke, N = 0, 200
    for s in range(N):
        r = np.random.default_rng(s); n = 200; z = r.normal(size=(n, 4))*2; q = torch.tensor(np.exp(z)/np.exp(z).sum(1, keepdims=True)); y = torch.tensor((q.numpy().cumsum(1) < r.random((n, 1))).sum(1).clip(0, 3))
        v = torch.tensor(r.normal(size=n)); t = v + .5*torch.tensor(r.standard_t(3, size=n))
        spoke += bool(MultiOutputInterpretation.from_predictions(Predictions((q, v), (y, t), torch.rand(n), (q.argmax(1), v), task="multi_output")).findings())
    assert spoke <= binom.ppf(.99, N, .05), spoke


def test_the_folder_shows_each_output(images, tmp_path):
    interp = interpret(images, progress=False); interp.names = ["digit & more", "<i>light</i>"]; page = write_folder(interp, tmp_path/"out"); text = page.read_text(); names = {f.name for f in page.parent.iterdir()}
    assert {"top_losses.png", "losses.png", "output0_confusion_matrix.png", "output0_classes.csv", "output1_residuals.png", "output1_predicted_vs_actual.png"} <= names
    assert "<i>light" not in text and "digit &amp; more: Which classes are taken for which" in text and "2 outputs" in text
    facts = json.loads((page.parent/"metrics.json").read_text()); assert "digit & more: accuracy" in facts["headline"] and "R²" in facts["headline"]
    assert facts["intervals"]["digit & more.accuracy"][0] < facts["values"]["digit & more.accuracy"]


def test_the_folder_of_an_unknown_task(tmp_path):
    x, y, _, _ = plain(); interp = Interpretation.from_predictions(capture(torch_learner(Heads(nn.Identity(), 4, 3, 5), list(zip(x, y)), lambda p, y: F.cross_entropy(p[0], y)), progress=False))
    page = write_folder(interp, tmp_path/"out"); assert {"losses.png", "predictions.csv", "metrics.json", "index.html"} == {f.name for f in page.parent.iterdir()} and "not drawn. There is no loader" in page.read_text()


def test_predictions_of_one_task_are_refused():
    with pytest.raises(TaskError, match="Use interpret"): MultiOutputInterpretation.from_predictions(Predictions.from_arrays([[.5, .5]], [0]))
