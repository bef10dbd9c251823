"One pass: everything a person asks first runs every row through the model exactly once."
import numpy as np, pytest, torch
from interp_kit.all import (ClassificationInterpretation, Features, Observer, PredictionAnalyzer, capture, plot_predictions, show_batch_predictions, show_results)
from interp_kit.demo import demo_learner


@pytest.mark.parametrize("task", ["classification", "tabular", "text"])
def test_every_question_from_one_pass(task, count_rows, capsys):
    learn = demo_learner(task); seen = count_rows(learn)
    def ask(interp):
        interp.confusion_matrix(); interp.plot_confusion_matrix(); interp.most_confused(); interp.print_classification_report(); interp.plot_top_losses(9)
        interp.show_results(9); interp.metrics(); interp.plot_calibration(); interp.plot_roc(); interp.plot_pr(); interp.findings(); interp.to_frame(); interp.classification_report()
    interp = ClassificationInterpretation.from_learner(learn)
    ask(interp)
    assert sum(seen) == len(learn.dls.valid_ds)
    seen.clear(); ask(interp)
    assert not seen, "a second call ran the model"


def test_analyzer_runs_once(digits, count_rows):
    seen, an = count_rows(digits), PredictionAnalyzer(digits)
    for r in (an.prediction_distribution(), an.confidence_analysis(), an.error_analysis()): r.plot()
    assert sum(seen) == 718


@pytest.mark.parametrize("show", [plot_predictions, show_batch_predictions, show_results])
def test_pictures_of_rows_run_only_those_rows(digits, count_rows, show):
    seen = count_rows(digits); axs = show(digits, max_n=5)
    assert sum(seen) == 5 and len(axs) == 5


def test_observers_share_the_pass(digits, count_rows):
    class Mean(Observer):
        def __init__(self): self.rows, self.means = [], []
        def on_batch(self, rows, inputs, outputs): self.rows.append(rows); self.means.append(inputs[0].flatten(1).mean(1).cpu())
        def columns(self): return dict(brightness=(np.concatenate(self.rows), torch.cat(self.means)))
    seen = count_rows(digits)
    p = capture(digits, observers=[Features(), Mean()], progress=False)
    assert sum(seen) == len(p) == 718 and p.features.shape == (718, 192)
    last = digits.model[1][-1]
    assert torch.allclose(last(p.features).softmax(1), p.preds, atol=1e-5), "features are the input of the last linear layer"
    x = torch.stack([digits.dls.valid.after_batch(digits.dls.valid.do_batch([digits.dls.valid.do_item(i)]))[0][0] for i in (3, 99)])
    assert torch.allclose(p.columns["brightness"][[3, 99]], torch.Tensor(x.flatten(1).mean(1)), atol=1e-5)
    assert torch.equal(p[[5, 2]].features, p.features[[5, 2]])


@pytest.mark.parametrize("bs", [1, 7, 239, 5000])
def test_batch_size_and_last_batch_of_one_row(digits, bs):
    dl = digits.dls.valid.new(bs=bs); p, q = capture(digits, dl, progress=False), capture(digits, progress=False)
    assert 718 % 239 == 1
    assert torch.allclose(p.preds, q.preds, atol=1e-5) and torch.equal(p.targs, q.targs)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers(digits, workers):
    p, q = capture(digits, digits.dls.valid.new(num_workers=workers), progress=False), capture(digits, progress=False)
    assert torch.equal(p.preds, q.preds) and list(p.items) == list(q.items)


def test_predictions_equal_fastais_own(digits):
    p, (preds, targs, dec, losses) = capture(digits, progress=False), digits.get_preds(with_decoded=True, with_loss=True)
    assert torch.allclose(p.preds, preds, atol=1e-6) and torch.equal(p.targs, torch.Tensor(targs).long()) and torch.equal(p.decoded, torch.Tensor(dec).long())
    assert torch.allclose(p.losses, torch.Tensor(losses), atol=1e-6)
    assert [str(f) for f in digits.dls.valid_ds.items] == list(p.items)


def test_the_arguments_that_fastais_users_write(digits):
    interp = ClassificationInterpretation.from_learner(digits)
    assert interp.plot_confusion_matrix(figsize=(6, 6), dpi=60).figure.dpi == 60
    axs = interp.plot_top_losses(5, nrows=1); assert axs[0].get_gridspec().get_geometry() == (1, 5)
    assert len(interp.plot_top_losses(range(3, 6), largest=False, figsize=(7, 3))) == 3 and len(interp.plot_top_losses([0, 2])) == 2
    assert interp.show_results([4, 9], nrows=1)[0].get_gridspec().ncols == 2
