"A multilabel learner: one pass answers everything, and thresholds decide."
import warnings
import matplotlib.pyplot as plt, numpy as np, pytest, torch
import sklearn.metrics as skm
from interp_kit.core import DataError, LabelError, TaskError, as_learner
from interp_kit.interpret import MultilabelInterpretation, interpret, plot_predictions, show_results, write_folder
from interp_kit.predictions import Predictions, capture, with_thresholds

LABELS = ["blue", "green", "red"]


def picture(i):
    "A picture with patches of some of three colours, and their names."
    r = np.random.default_rng(i); x = r.integers(0, 60, (20, 20, 3)).astype(np.uint8); has = r.random(3) < .45
    for c in np.flatnonzero(has): y, z = r.integers(0, 14, 2); x[y:y + 6, z:z + 6, 2 - c] = 220
    return x, [LABELS[c] for c in np.flatnonzero(has)]


@pytest.fixture(scope="module")
def learn():
    from fastai.data.block import DataBlock, MultiCategoryBlock
    from fastai.data.transforms import RandomSplitter
    from fastai.learner import Learner
    from fastai.losses import BCEWithLogitsLossFlat
    from fastai.torch_core import set_seed
    from fastai.vision.core import PILImage
    from fastai.vision.data import ImageBlock
    set_seed(0)
    block = DataBlock((ImageBlock, MultiCategoryBlock(vocab=LABELS)), get_x=lambda i: PILImage.create(picture(i)[0]), get_y=lambda i: picture(i)[1], splitter=RandomSplitter(.5, seed=0))
    dls = block.dataloaders(range(240), bs=32, num_workers=0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3, stride=2), torch.nn.ReLU(), torch.nn.AdaptiveMaxPool2d(1), torch.nn.Flatten(), torch.nn.Linear(6, 3))
    x, y = (o.as_subclass(torch.Tensor) for o in dls.train.new(bs=120, shuffle=False).one_batch()); opt = torch.optim.Adam(net.parameters(), 2e-2)
    for _ in range(60): torch.nn.functional.binary_cross_entropy_with_logits(net(x), y).backward(); opt.step(); opt.zero_grad()
    return Learner(dls, net, loss_func=BCEWithLogitsLossFlat())


@pytest.fixture
def interp(learn): return MultilabelInterpretation.from_learner(learn)


def test_all_verbs_run_on_one_pass(learn, count_rows, tmp_path):
    seen = count_rows(learn); interp = MultilabelInterpretation.from_learner(learn); assert sum(seen) == len(interp) == 120
    t, d = interp.targs.numpy().astype(int), interp.decoded.numpy().astype(int)
    np.testing.assert_array_equal(interp.confusion_matrix(), skm.multilabel_confusion_matrix(t, d))
    assert len(interp.plot_confusion_matrix()) == 3 and len(interp.plot_top_losses(4)) == 4 and len(interp.plot_top_losses([0, 5], label="red")) == 2 and len(interp.show_results(3)) == 3
    interp.plot_roc(); interp.plot_pr(); interp.plot_calibration(); interp.plot_calibration("green"); interp.most_confused(); interp.best_thresholds(); interp.per_label(); interp.findings(); interp.to_frame()
    interp.print_classification_report(); interp.top_losses(5, items=True); interp.top_losses(5, label=1); interp[[3, 1]]
    ci = interp.metrics(ci=True); ok = ci.low.notna(); assert ok.sum() == len(ci) - 1 and (ci.low <= ci.value + 1e-9)[ok].all() and (ci.value <= ci.high + 1e-9)[ok].all()
    assert write_folder(interp, tmp_path/"out").exists(); interp.thresh = .3; interp.metrics()
    assert sum(seen) == 120, "something ran the model again"


def test_it_is_chosen_for_such_a_learner(learn):
    interp = interpret(learn, progress=False); assert type(interp) is MultilabelInterpretation and interp.predictions.names == LABELS and interp.thresh == .5
    assert len(plot_predictions(learn, max_n=2)) == 2 and len(show_results(interp, 2)) == 2


def test_the_report_equals_scikit_learns(interp, capsys):
    t, d = interp.targs.numpy().astype(int), interp.decoded.numpy().astype(int); ours = interp.classification_report()
    ref = skm.classification_report(t, d, target_names=LABELS, output_dict=True, zero_division=np.nan); assert list(ours.index) == list(ref)
    for k, row in ref.items(): np.testing.assert_allclose(ours.loc[k].to_numpy(dtype=float), [row[c] for c in ours.columns], atol=1e-12)
    interp.print_classification_report(); assert "samples avg" in capsys.readouterr().out


def test_thresholds_come_from_the_loss_or_the_caller(learn, interp):
    from fastai.losses import BCEWithLogitsLossFlat
    before, learn.loss_func = learn.loss_func, BCEWithLogitsLossFlat(thresh=.3)
    try: low = MultilabelInterpretation.from_learner(learn); assert low.thresh == .3 and torch.equal(low.decoded.bool(), interp.preds > .3)
    finally: learn.loss_func = before
    each = MultilabelInterpretation.from_learner(learn, 1, thresh=[.2, .5, .7]); assert each.thresh.tolist() == [.2, .5, .7]
    assert torch.equal(each.decoded, interp.preds.double() > torch.tensor([.2, .5, .7], dtype=torch.float64)) and each.predictions.meta["thresh"] == [.2, .5, .7]
    assert MultilabelInterpretation.from_predictions(interp.predictions, learn, thresh=.2).thresh == .2
    read = with_thresholds(interp.predictions, .4); read.meta.pop("thresh"); guess = MultilabelInterpretation.from_predictions(read).thresh
    assert torch.equal(with_thresholds(read, guess).decoded, read.decoded), "read off the decisions"


def test_setting_thresh_changes_every_answer_and_nothing_else(interp):
    before, decoded, m = interp.predictions, interp.decoded.clone(), interp.metrics(ci=True); top = interp.top_losses(5)[1]
    interp.thresh = .05
    assert torch.equal(before.decoded, decoded), "the old predictions are as they were"
    assert interp.metrics()["recall_macro"] > m.value["recall_macro"] and interp.metrics()["roc_auc_macro"] == m.value["roc_auc_macro"] and interp.metrics(ci=True).low["recall_macro"] > m.low["recall_macro"]
    assert torch.equal(interp.top_losses(5)[1], top) and interp.confusion_matrix()[:, :, 1].sum() == (interp.preds > .05).sum() and (interp.per_label().threshold == .05).all()
    interp.thresh = interp.best_thresholds()[::-1]; assert interp.per_label().threshold.tolist() == interp.thresh.tolist(), "a Series goes by label"
    np.testing.assert_allclose(interp.thresh, MultilabelInterpretation.from_predictions(before).best_thresholds())


def test_losses_of_one_label(learn, interp):
    loss = torch.nn.functional.binary_cross_entropy(interp.preds[:, 2], interp.targs[:, 2], reduction="none")
    losses, rows, items = interp.top_losses(items=True, label="red"); np.testing.assert_allclose(losses, loss[rows], atol=1e-6); assert (np.diff(losses) <= 0).all()
    assert items == [learn.dls.valid.items[int(i)] for i in rows]
    least, least_rows = interp.top_losses(3, largest=False, label=2)
    assert torch.equal(least, losses.flip(0)[:3]) # the rows may differ where losses are equal
    np.testing.assert_allclose(least, loss[least_rows], atol=1e-6)
    titles = [ax.get_title() for ax in interp.plot_top_losses(120, label="red")]
    for title, i in zip(titles, rows):
        t, d = bool(interp.targs[i, 2]), bool(interp.decoded[i, 2])
        assert title.startswith({(True, True): "found", (True, False): "○ missed", (False, True): "✗ wrongly given", (False, False): "rightly not given"}[t, d])
    assert torch.equal(interp.losses, interp.predictions.losses), "the interpretation keeps its own losses"


def test_captions_name_what_is_missed_and_wrong(interp):
    _, rows = interp.top_losses(); names = np.array(LABELS)
    for ax, i in zip(interp.plot_top_losses(len(rows)), rows):
        said, actual, loss = ax.get_title().split("\n"); t, d = interp.targs[i].bool().numpy(), interp.decoded[i].bool().numpy()
        assert {o[2:] for o in said.removesuffix(" /").split(", ") if o[0] == "✗"} == set(names[d & ~t]) and {o[2:] for o in actual.split(", ") if o[0] == "○"} == set(names[t & ~d])
        assert {o.removeprefix("✗ ") for o in said.removesuffix(" /").split(", ")} - {"(none)"} == set(names[d]) and loss.startswith("loss ")


def test_most_confused_counts_rows(interp):
    t, d = interp.targs.bool(), interp.decoded.bool(); got = interp.most_confused()
    for a, b, n in got: i, j = LABELS.index(a), LABELS.index(b); assert n == int((t[:, i] & ~d[:, i] & d[:, j] & ~t[:, j]).sum())
    assert [o[2] for o in got] == sorted([o[2] for o in got], reverse=True) and interp.most_confused(10**6) == []


def test_from_disk(learn, tmp_path):
    a = MultilabelInterpretation.from_learner(learn, path=tmp_path/"p", thresh=.4); b = MultilabelInterpretation.from_predictions(Predictions.open(tmp_path/"p"), learn, learn.dls.valid)
    assert b.thresh == .5 and len(b.plot_top_losses(2)) == 2; b.thresh = .4
    assert a.metrics() == b.metrics() and a.to_frame().equals(b.to_frame())
    a.predictions.save(tmp_path/"q"); assert MultilabelInterpretation.from_predictions(Predictions.open(tmp_path/"q")).thresh == .4


def test_a_plain_model_and_integer_targets():
    r = np.random.default_rng(0); x = torch.from_numpy(r.normal(size=(50, 4))).float(); y = torch.from_numpy(r.integers(0, 2, (50, 3)))
    with warnings.catch_warnings(): warnings.simplefilter("ignore"); learn = as_learner(torch.nn.Linear(4, 3), torch.utils.data.DataLoader(list(zip(x, y.float())), batch_size=16), torch.nn.BCEWithLogitsLoss())
    interp = interpret(learn, progress=False); assert type(interp) is MultilabelInterpretation and len(interp.plot_top_losses(3)) == 3
    p = Predictions.from_arrays(torch.rand(50, 3), y, task="multilabel"); assert MultilabelInterpretation.from_predictions(p).metrics()["mean_labels_actual"] == float(y.sum(1).double().mean())


def test_what_cannot_be_done_says_so(learn, interp):
    with pytest.raises(LabelError, match="no label 'pink'"): interp.plot_calibration("pink")
    with pytest.raises(LabelError, match="no label 7"): interp.top_losses(label=7)
    with pytest.raises(DataError, match="one for each of the 3 labels"): interp.thresh = [.1, .2]
    with pytest.raises(TaskError, match="for multilabel, but these are predictions of the task classification"): MultilabelInterpretation.from_predictions(Predictions.from_arrays([[.5, .5]], [0]))
    none = MultilabelInterpretation.from_predictions(Predictions.from_arrays([[.5, .2]], [[0, 0]], task="multilabel"))
    with pytest.raises(DataError, match="no curve"): none.plot_roc()


@pytest.mark.parametrize("C", [1, 3, 80])
def test_pictures_of_few_and_many_labels(C):
    r = np.random.default_rng(C); names = ["prix en $", "Füße und 猫", "a label with a name that goes on and on and on"][:C] + [f"_{i}" for i in range(C - 3)]
    q = r.random((60, C)); i = MultilabelInterpretation.from_predictions(Predictions.from_arrays(q, r.random(q.shape) < q, vocab=names, task="multilabel")); i.inputs = torch.rand(60, 3, 16, 16)
    axs = i.plot_confusion_matrix(normalize=True); assert len(axs) == min(C, 12); axs[0].figure.canvas.draw(); assert ("not shown" in axs[0].figure._supxlabel.get_text()) == (C > 12)
    for draw in (lambda: i.plot_top_losses(4), lambda: i.plot_top_losses(4, label=0), i.plot_roc, i.plot_pr, i.plot_calibration, lambda: i.plot_calibration(0)):
        fig = np.ravel(draw())[0].figure; fig.canvas.draw(); plt.close(fig)
