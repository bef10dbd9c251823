"Maps over the rows with the largest losses, for every task."
import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from interp_kit.attribution.explain import METHODS, explain
from interp_kit.core import DataError, TaskError
from interp_kit.demo import demo_learner
from interp_kit.interpret.base import Interpretation
from interp_kit.interpret.classification import ClassificationInterpretation
from interp_kit.interpret.multilabel import MultilabelInterpretation
from interp_kit.interpret.outputs import MultiOutputInterpretation
from interp_kit.interpret.segmentation import SegmentationInterpretation
from interp_kit.interpret.verbs import interpret, plot_top_losses
from interp_kit.predictions.store import Predictions

pytestmark = pytest.mark.filterwarnings("ignore")


def top(interp): return np.asarray(interp._order[True]) if interp._order else interp.top_losses()[1].numpy()


def test_the_map_is_that_of_the_predicted_class_of_the_row_drawn(count_rows):
    learn = demo_learner(); interp = interpret(learn, progress=False)
    plain = interp.plot_top_losses(4); seen = count_rows(learn)
    axs = interp.plot_top_losses(4, heatmap="gradcam"); rows = interp.top_losses(4)[1].numpy()
    assert 0 < sum(seen) <= 40, "only the rows drawn are run"
    (x,), _ = interp._batch(rows); a = explain(learn, x, "gradcam")
    assert a.target == interp.decoded[rows].tolist()
    for ax, old, m in zip(axs, plain, a.values):
        heat = np.asarray(ax.images[-1].get_array()); assert len(ax.images) == 3 and np.allclose(heat, m, atol=1e-4)
        assert ax.get_title() == old.get_title() and np.array_equal(ax.images[0].get_array(), old.images[0].get_array())
    assert axs[0].figure.get_suptitle().endswith("gradcam map of the predicted class")
    assert sum(seen) and not interp.plot_top_losses(2)[0].figure.get_suptitle().endswith("class\ngradcam")


def test_options_targets_and_the_function(digits):
    interp = interpret(digits, progress=False)
    for ax in (plot_top_losses(interp, [2], heatmap=dict(method="rise", n_masks=40, target="8")), interp.plot_top_losses([2], True, (5, 5), dict(method="rise", n_masks=40, target="8"))):
        (x,), _ = interp._batch(interp.top_losses()[1].numpy()[[2]])
        assert np.allclose(ax[0].images[-1].get_array(), explain(digits, x, "rise", "8", n_masks=40).values[0].clamp_min(0), atol=1e-4) and ax[0].figure.get_suptitle().endswith("rise map of the target")
    assert len(interp.plot_top_losses(2, heatmap="saliency", largest=False)) == 2
    METHODS["mine"] = lambda learn, x, target=None: explain(learn, x, "centre", target)
    try: interp.plot_top_losses(1, heatmap="mine")
    finally: del METHODS["mine"]


@pytest.mark.parametrize("task", ["tabular", "tabular_regression"])
def test_tables_get_bars_of_their_columns(task):
    learn = demo_learner(task); interp = interpret(learn, progress=False)
    axs = interp.plot_top_losses(3, heatmap="ig"); rows = interp.top_losses(3)[1].numpy()
    a = explain(learn, interp._batch(rows)[0], "ig")
    for j, (ax, old) in enumerate(zip(axs, interp.plot_top_losses(3))):
        values = torch.cat([v[j] for v in a.values]); widths = [p.get_width() for p in ax.patches]
        assert np.allclose(widths, values[values.abs().argsort(descending=True)][:len(widths)], atol=1e-4) and ax.get_title() == old.get_title()
        first = ax.get_yticklabels()[0].get_text(); assert first.split(" ")[-1].replace(".", "").lstrip("-").isdigit() or first.split(" ")[-1] in ("yes", "no", "1", "2")
    assert axs[0].figure.get_suptitle().endswith("integrated_gradients map of " + ("the predicted class" if task == "tabular" else "the output"))


def test_texts_get_marked_words():
    interp = interpret(demo_learner("text"), progress=False)
    axs = interp.plot_top_losses(4, heatmap="integrated_gradients"); rows = interp.top_losses(4)[1].numpy()
    from interp_kit.interpret.base import decoded_samples
    for ax, old in zip(axs, interp.plot_top_losses(4)):
        words = " ".join(t.get_text() for t in ax.texts); text = " ".join(old.texts[0].get_text().split())
        assert len(ax.texts) > 5 and "xxpad" not in words and words.startswith(text[:40]) and ax.get_title() == old.get_title() and len({t.get_bbox_patch().get_facecolor() for t in ax.texts}) > 2


def test_labels_show_the_worst_or_the_one_asked_for():
    learn = demo_learner("multilabel"); interp = interpret(learn, progress=False); assert type(interp) is MultilabelInterpretation
    axs = interp.plot_top_losses(3, heatmap="gradcam"); rows = interp.top_losses(3)[1].numpy(); (x,), _ = interp._batch(rows)
    worst = (interp.preds[rows] - interp.targs[rows]).abs().argmax(1).tolist()
    for ax, m in zip(axs, explain(learn, x, "gradcam", worst).values): assert m.max() == 0 or np.allclose(ax.images[-1].get_array(), m, atol=1e-4)
    ax = interp.plot_top_losses(2, label="3", heatmap="gradcam"); rows = interp.top_losses(2, label="3")[1].numpy(); (x,), _ = interp._batch(rows)
    for o, m in zip(ax, explain(learn, x, "gradcam", "3").values): assert m.max() == 0 or np.allclose(o.images[-1].get_array(), m, atol=1e-4)
    assert ax[0].figure.get_suptitle().endswith("gradcam map of 3")


def test_masks_show_where_the_commonest_error_comes_from():
    learn = demo_learner("segmentation"); interp = interpret(learn, progress=False); assert type(interp) is SegmentationInterpretation
    axs = interp.plot_top_losses(3, heatmap="gradcam"); assert axs.shape == (3, 4)
    for line, i in zip(axs, interp.top_losses(3)[1].tolist()):
        wrong = interp.decoded[i] != interp.targs[i]; c = int(torch.bincount(interp.decoded[i][wrong].long()).argmax())
        assert line[0].get_title() == f"image, map of {interp.predictions.names[c]}" and len(line[1].images) == len(axs[0, 1].images)
    assert len(axs[0, 0].images) == 3 and interp.plot_top_losses(1, heatmap=dict(method="saliency", target="3"))[0, 0].get_title() == "image and map"
    right = interp._worst(int(interp.top_losses(1, largest=False)[1][0])); assert right[1].any()


class Heads(nn.Module):
    def __init__(self): super().__init__(); self.body, self.a, self.b = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten()), nn.Linear(48, 10), nn.Linear(48, 1)
    def forward(self, x): x = self.body(x); return self.a(x), self.b(x)


def two_heads():
    "A learner that names a digit and how bright it is."
    from fastai.vision.all import CategoryBlock, DataBlock, ImageBlock, IndexSplitter, Learner, RegressionBlock, parent_label
    files = demo_learner().dls.valid.items[:24]
    block = DataBlock((ImageBlock, CategoryBlock, RegressionBlock), n_inp=1, get_y=[parent_label, lambda f: 1.], splitter=IndexSplitter(range(0, 24, 3)))
    loss = lambda out, y, v: F.cross_entropy(out[0], torch.Tensor(y).long()) + F.mse_loss(out[1].squeeze(-1), torch.Tensor(v))
    return Learner(block.dataloaders(files, bs=8, num_workers=0), Heads(), loss_func=loss)


def test_numbers_and_several_answers():
    interp = interpret(demo_learner("regression"), progress=False)
    assert interp.plot_top_losses(2, heatmap="gradcam")[0].figure.get_suptitle().endswith("gradcam map of the output")
    both = interpret(two_heads(), progress=False); assert type(both) is MultiOutputInterpretation
    axs = both.plot_top_losses(2, heatmap="saliency"); assert all(len(a.images) == 3 for a in axs) and "the first output, output 0" in axs[0].figure.get_suptitle()
    from interp_kit.attribution.targets import of_output
    axs = both.plot_top_losses(2, heatmap=dict(method="integrated_gradients", target=of_output(1))); assert len(axs) == 2


def test_a_map_without_evidence_says_so(digits):
    interp = interpret(digits, progress=False)
    METHODS["nothing"] = lambda learn, x, target=None: _zeros(explain(learn, x, "centre", target))
    def _zeros(a): a.values = a.values*0; return a
    try: ax = interp.plot_top_losses(1, heatmap="nothing")[0]
    finally: del METHODS["nothing"]
    assert ax.get_xlabel() == "no evidence in the map" and len(ax.images) == 1


def test_what_is_missing_is_named(digits, tmp_path):
    interp = interpret(digits, progress=False)
    with pytest.raises(DataError, match="pass learn="): ClassificationInterpretation.from_predictions(interp.predictions, dl=digits.dls.valid).plot_top_losses(2, heatmap="gradcam")
    with pytest.raises(DataError, match="pass dl="): ClassificationInterpretation.from_predictions(interp.predictions, digits).plot_top_losses(2, heatmap="gradcam")
    with pytest.raises(TaskError, match="no method 'gradcan'"): interp.plot_top_losses(2, heatmap="gradcan")
    wine = interpret(demo_learner("tabular"), progress=False)
    with pytest.raises(TaskError, match="gradcam explains images"): wine.plot_top_losses(2, heatmap="gradcam")
    masks = interpret(demo_learner("segmentation"), progress=False)
    with pytest.raises(DataError, match="pass dl="): SegmentationInterpretation.from_predictions(masks.predictions, demo_learner("segmentation")).plot_top_losses(1, heatmap="gradcam")
    assert ClassificationInterpretation.from_predictions(interp.predictions, digits, digits.dls.valid).plot_top_losses(2, heatmap="gradcam")[0].images
