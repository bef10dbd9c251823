"Histories of real trainings, whole, interrupted and resumed, against what fastai itself kept; dictionaries and files in all their shapes."
import json
import numpy as np, pandas as pd, pytest, torch
from fastai.callback.core import Callback, CancelEpochException, CancelFitException, CancelTrainException, CancelValidException
from fastai.callback.progress import CSVLogger
from fastai.callback.tracker import TerminateOnNaNCallback
from fastai.metrics import accuracy, error_rate
import fastai.callback.schedule  # fit_one_cycle
from torch import nn
from interp_kit.core import DataError, NotFoundError, TaskError
from interp_kit.demo import demo_learner
from interp_kit.training.curves import plot_metrics
from interp_kit.training.dynamics import dynamics
from interp_kit.training.history import TrainingHistory, _as_history, _is_lr_search, _metric_direction, _split_name
from quick_learner import make


class At(Callback):
    "Raise at a batch of an epoch, in training or validation."
    order = 70 # after the Recorder
    def __init__(self, error, epoch=1, batch=2, training=True): self.error, self.at = error, (epoch, batch, training)
    def after_batch(self):
        if (self.epoch, self.iter, self.training) == self.at: raise self.error


def same(h, learn):
    "All full rows equal the Recorder's."
    rows = np.array([r for r in learn.recorder.values if len(r) == len(learn.recorder.metric_names) - 2], dtype=float)
    full = ~np.any([h.missing[n] for n in h.values], axis=0)
    assert np.array_equal(np.stack([h[n][full] for n in h.values], 1), rows)


def test_a_whole_training():
    learn = make(); learn.fit_one_cycle(3, .1)
    h = TrainingHistory.from_learner(learn)
    assert list(h.values) == ["train_loss", "valid_loss", "valid_accuracy"] and h.epochs.tolist() == [0, 1, 2]
    same(h, learn)
    assert h.epoch_ends.tolist() == [5, 10, 15] and not h.unfinished and np.array_equal(h.batches["mom"], np.array(learn.recorder.hps["mom"], dtype=float))
    assert np.array_equal(h.batches["lr"], np.array(learn.recorder.lrs, dtype=float)) and h.starts == [0]
    assert h.direction("valid_accuracy") == "max" and h.direction("valid_loss") == "min"


def test_the_demo_of_wine():
    learn = demo_learner("tabular"); learn.remove_cbs([c for c in learn.cbs if c.name == "progress"])
    with learn.no_logging(): learn.fit_one_cycle(4, 1e-2)
    h = _as_history(learn); same(h, learn)
    assert dynamics(learn).metric == "valid_accuracy" and len(plot_metrics(learn)) == 2


@pytest.mark.parametrize("error", [CancelFitException(), KeyboardInterrupt()], ids=["CancelFit", "KeyboardInterrupt"])
@pytest.mark.parametrize("training,unfinished", [(True, 3), (False, 5)])
def test_interrupted_within_an_epoch(error, training, unfinished):
    learn = make()
    try: learn.fit(4, .1, cbs=At(error, epoch=2, batch=2, training=training))
    except KeyboardInterrupt: pass
    h = TrainingHistory.from_learner(learn); same(h, learn)
    assert len(h) == 2 and h.unfinished == unfinished and len(h.batches["loss"]) == 10 + unfinished
    assert f"stopped after 2 of 4 epochs, {unfinished} batches into the next" in h.notes[-1]
    x, lrs = h.lr_curve(); assert len(x) == len(lrs) == 10 + unfinished and x[9] == 1 and np.allclose(np.diff(x), .2)
    d = dynamics(h); assert d.peak_epoch <= 1 and "3 epochs that are needed" in d.reasons["overfitting_index"]
    d.plot(); plot_metrics(h); json.dumps(d.to_dict(), allow_nan=False)


def test_interrupted_in_the_first_epoch():
    learn = make(); learn.fit(4, .1, cbs=At(CancelFitException(), epoch=0))
    h = TrainingHistory.from_learner(learn)
    assert len(h) == 0 and h.unfinished == 3 and dynamics(h).reasons["best_loss"] == "no epoch was finished"
    with pytest.raises(DataError, match="no epoch was finished"): plot_metrics(h)
    learn.fit(2, .1); assert len(h + TrainingHistory.from_learner(learn)) == 2


@pytest.mark.parametrize("error,training,gone", [(CancelEpochException(), True, ["train_loss", "valid_loss", "valid_accuracy"]), (CancelTrainException(), True, ["train_loss"]),
                                                  (CancelEpochException(), False, ["valid_loss", "valid_accuracy"]), (CancelValidException(), False, ["valid_loss", "valid_accuracy"])])
def test_one_epoch_broken_off_and_training_going_on(error, training, gone):
    learn = make(); learn.fit(3, .1, cbs=At(error, training=training))
    h = TrainingHistory.from_learner(learn); same(h, learn)
    assert len(h) == 3 and [n for n in h.values if h.missing[n][1]] == gone and not any(h.missing[n][i] for n in h.values for i in (0, 2))
    assert "Epoch 1 was broken off" in h.notes[0] and np.isfinite([dynamics(h).best_loss, dynamics(h).final_gap]).all()
    assert not dynamics(h).findings(), "an epoch that was not recorded is no NaN"


def test_a_row_that_could_be_either_part_is_left_out():
    learn = make(metrics=()); learn.fit(3, .1, cbs=At(CancelTrainException()))
    h = TrainingHistory.from_learner(learn)
    assert h.missing["train_loss"].tolist() == h.missing["valid_loss"].tolist() == [False, True, False] and "cannot be told what they are" in h.notes[0]


def test_resumed_from_a_later_epoch():
    learn = make(); learn.fit(3, .1); first = TrainingHistory.from_learner(learn)
    learn.fit(6, .1, start_epoch=3); second = TrainingHistory.from_learner(learn)
    assert second.epochs.tolist() == [3, 4, 5] and second.epoch_ends.tolist() == [5, 10, 15]
    h = first + second
    assert h.epochs.tolist() == list(range(6)) and h.starts == [0, 3] and len(h.batches["lr"]) == 30 and h.epoch_ends.tolist() == [5, 10, 15, 20, 25, 30]
    assert np.array_equal(h["valid_loss"], np.r_[first["valid_loss"], second["valid_loss"]])
    learn.fit(4, .1, start_epoch=1); third = TrainingHistory.from_learner(learn)
    again = h + third
    assert again.epochs.tolist() == [0, 1, 2, 3] and np.array_equal(again["train_loss"], np.r_[first["train_loss"][:1], third["train_loss"]]) and len(again.batches["loss"]) == 20
    assert "Epochs 1 to 5 were trained again" in again.notes[-1]


def test_a_second_fit_counts_on_and_leaves_no_old_momentum():
    learn = make(); learn.fit_one_cycle(2, .1); first = TrainingHistory.from_learner(learn)
    learn.fit(2, .1); second = TrainingHistory.from_learner(learn)
    assert "mom" in first.batches and "mom" not in second.batches
    learn.fit_one_cycle(2, .1, cbs=At(CancelFitException(), epoch=1))
    assert "mom" in TrainingHistory.from_learner(learn).batches
    h = first + second
    assert h.epochs.tolist() == [0, 1, 2, 3] and sorted(h.batches) == ["loss", "lr"] and dynamics(h).history.starts == [0, 2]


def test_training_metrics_and_no_validation_metrics():
    learn = make((accuracy, error_rate)); learn.recorder.train_metrics = True; learn.fit(2, .1)
    h = TrainingHistory.from_learner(learn); same(h, learn)
    assert list(h.values) == ["train_loss", "train_accuracy", "train_error_rate", "valid_loss", "valid_accuracy", "valid_error_rate"]
    learn.recorder.valid_metrics = False; learn.fit(2, .1)
    h = TrainingHistory.from_learner(learn)
    assert list(h.values) == ["train_loss", "train_accuracy", "train_error_rate"] and "valid_loss" in dynamics(h).reasons["best_loss"]
    assert dynamics(h, metric="train_accuracy").peak_performance == h["train_accuracy"].max()


def test_without_validation_rows():
    learn = make(n_valid=0); learn.fit(3, .1)
    h = TrainingHistory.from_learner(learn)
    assert h.missing["valid_loss"].all() and "no valid_loss" in dynamics(h).reasons["final_gap"] and not h.missing["train_loss"].any()


def test_batch_losses_are_found_again_behind_the_running_mean():
    learn, seen = make(), []
    class Watch(Callback):
        def after_loss(self):
            if self.training: seen.append(self.loss.item())
    learn.fit(30, .1, cbs=Watch()); h = TrainingHistory.from_learner(learn, smoothed=False)
    assert np.allclose(h.batches["loss"], seen, atol=2e-4) and np.allclose(h["train_loss"], np.reshape(seen, (30, 5)).mean(1), atol=2e-4)
    assert "lags behind" in TrainingHistory.from_learner(learn).notes[0] and "lags behind" in dynamics(learn).about["overfitting_index"]


def test_losses_that_are_not_finite():
    learn = make(); learn.fit(5, .1, cbs=[Poison(), TerminateOnNaNCallback()])
    assert len(TrainingHistory.from_learner(learn)) == 2
    learn = make(); learn.fit(5, .1, cbs=Poison())
    found = dynamics(learn).findings()
    assert [(f.type, f.severity) for f in found] == [("diverged", "critical")] and "epoch 2" in found[0].title


class Poison(Callback):
    def before_batch(self):
        if self.epoch == 2 and self.training: self.learn.xb = (self.xb[0]*float("nan"),)


def test_what_is_no_training_is_refused_with_the_reason():
    learn = make()
    with pytest.raises(DataError, match="was not trained"): TrainingHistory.from_learner(learn)
    learn.fit(2, .1); learn.get_preds()
    with pytest.raises(DataError, match="emptied by a later"): TrainingHistory.from_learner(learn)
    learn.fit(2, .1); learn.validate()
    with pytest.raises(DataError, match="emptied by a later"): TrainingHistory.from_learner(learn)
    for o in (nn.Linear(2, 2), None, 3.):
        with pytest.raises(TaskError, match="Recorder"): TrainingHistory.from_learner(o)
    with pytest.raises(TaskError): _as_history(nn.Linear(2, 2))


@pytest.mark.parametrize("append", [False, True])
def test_the_csv_says_what_the_recorder_says(tmp_path, append):
    learn, file = make((accuracy, error_rate)), tmp_path/"history.csv"
    learn.fit(3, .1, cbs=CSVLogger(file, append=append)); first = TrainingHistory.from_learner(learn)
    learn.fit(2, .1, cbs=CSVLogger(file, append=append)); second = TrainingHistory.from_learner(learn)
    want, h = first + second if append else second, TrainingHistory.from_csv(file)
    assert h.epochs.tolist() == want.epochs.tolist() and h.starts == want.starts and list(h.values) == [*want.values, "time"]
    for n in want.values: assert np.array_equal(h[n], want[n]), n
    assert h.direction("valid_error_rate") == "min" and dynamics(h).metric == "valid_accuracy"


def test_a_killed_training_leaves_half_a_line(tmp_path):
    learn, file = make(), tmp_path/"history.csv"
    learn.fit(4, .1, cbs=CSVLogger(file, append=True))
    whole = file.read_text(); lines = whole.splitlines(keepends=True)
    for cut in range(1, len(lines[-1])):
        file.write_text("".join(lines[:-1]) + lines[-1][:-cut]); h = TrainingHistory.from_csv(file)
        assert len(h) == (4 if cut == 1 else 3), (cut, lines[-1][:-cut]) # only the line end is missing: the clock is there
        assert cut == 1 or "left out as unfinished" in h.notes[0]
    file.write_text("".join(lines[:-1]) + lines[-1][:-12] + whole); h = TrainingHistory.from_csv(file)
    assert h.epochs.tolist() == list(range(7)) and "cut off before a header" in h.notes[0] and np.array_equal(h["train_loss"][3:], TrainingHistory.from_learner(learn)["train_loss"])


def test_epochs_broken_off_in_a_csv(tmp_path):
    learn, file = make(), tmp_path/"history.csv"
    learn.fit(3, .1, cbs=[At(CancelTrainException()), CSVLogger(file)])
    want, h = TrainingHistory.from_learner(learn), TrainingHistory.from_csv(file)
    for n in want.values: assert h.missing[n].tolist() == want.missing[n].tolist() and np.array_equal(h[n], want[n], equal_nan=True)
    learn.fit(4, .1, start_epoch=2, cbs=CSVLogger(file))
    assert TrainingHistory.from_csv(file).epochs.tolist() == [2, 3]


def test_files_that_are_none(tmp_path):
    with pytest.raises(NotFoundError): TrainingHistory.from_csv(tmp_path)
    (tmp_path/"a.csv").write_text("epoch,loss\n0,x\n")
    with pytest.raises(DataError, match="'x', which is not a number"): TrainingHistory.from_csv(tmp_path/"a.csv")
    (tmp_path/"b.csv").write_text("\ufeffepoch,loss,val_loss\n0,2,3\n"); assert list(_as_history(str(tmp_path/"b.csv")).values) == ["train_loss", "valid_loss"]


class History:
    "What Keras' fit returns."
    def __init__(self, history): self.history, self.epoch, self.params = history, list(range(3)), {}


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, pd.Series, lambda v: [torch.tensor(x) for x in v], lambda v: [np.float32(x) for x in v], tuple, lambda v: dict(enumerate(v))])
def test_values_of_all_kinds(kind):
    h = TrainingHistory.from_dict(History(dict(loss=kind([1., .5, .25]), val_loss=kind([1., .75, .5]))))
    assert h["train_loss"].tolist() == [1, .5, .25] and h.source == "History" and h["train_loss"].dtype == np.float64


def test_nan_is_not_missing_and_survives_strict_json():
    h = TrainingHistory.from_dict(dict(loss=[1, float("nan"), float("inf"), None, -float("inf")], val_loss=[1, 2]))
    assert h.missing["train_loss"].tolist() == [0, 0, 0, 1, 0] and h.missing["valid_loss"].tolist() == [0, 0, 1, 1, 1] and "valid_loss has 2 of 5 epochs" in h.notes[0]
    text = json.dumps(h.to_dict(), allow_nan=False); again = TrainingHistory.from_dict(json.loads(text))
    for n in h.values: assert np.array_equal(again[n], h[n], equal_nan=True) and np.array_equal(again.missing[n], h.missing[n])
    assert json.dumps(again.to_dict()) == text
    with pytest.raises(DataError, match="version 9"): TrainingHistory.from_dict(dict(h.to_dict(), version=9))


def test_a_learners_history_survives_json():
    learn = make(); learn.fit_one_cycle(2, .1); h = TrainingHistory.from_learner(learn)
    again = TrainingHistory.from_dict(json.loads(json.dumps(h.to_dict(), allow_nan=False)))
    assert np.array_equal(again.batches["mom"], h.batches["mom"]) and again.to_frame().equals(h.to_frame()) and again.epoch_ends.tolist() == [5, 10]


def test_plain_names_of_each_world():
    names = lambda *keys, **kwargs: list(TrainingHistory.from_dict({k: [1.] for k in keys}, **kwargs).values)
    assert names("loss", "accuracy") == ["train_loss", "train_accuracy"]  # Keras without validation
    assert names("accuracy", "val_accuracy") == ["train_accuracy", "valid_accuracy"]
    assert names("train_loss", "valid_loss", "accuracy", "f1_score") == ["train_loss", "valid_loss", "valid_accuracy", "valid_f1_score"]  # fastai
    assert names("loss", "eval_loss", "learning_rate") == ["train_loss", "valid_loss", "lr"]  # Hugging Face
    assert names("train/loss", "val/loss", "val/mAP") == ["train_loss", "valid_loss", "valid_mAP"]
    assert names("error_rate") == ["error_rate"] and names("error_rate", plain="valid") == ["valid_error_rate"]
    assert names("test_loss", "loss") == ["test_loss", "train_loss"]
    assert _split_name("train-dice_loss") == ("train", "dice_loss")


def test_fastai_metric_names_have_a_direction():
    import fastai.metrics as M
    up = [M.F1Score(), M.RocAucBinary(), M.Dice(), M.JaccardCoeff(), M.CohenKappa(), M.MatthewsCorrCoef(), M.APScoreBinary(), M.Precision(), M.Recall(), M.R2Score(), M.PearsonCorrCoef(), M.SpearmanCorrCoef(),
          M.BalancedAccuracy(), M.ExplainedVariance(), M.CorpusBLEUMetric(), M.AccumMetric(M.top_k_accuracy), M.AccumMetric(M.foreground_acc), M.DiceMulti(), M.Jaccard(), M.FBeta(beta=2), M.AccumMetric(M.accuracy_multi)]
    down = [M.HammingLoss(), M.Perplexity(), M.BrierScore(), M.AccumMetric(M.error_rate), M.AccumMetric(M.mae), M.AccumMetric(M.mse), M.AccumMetric(M.msle), M.rmse, M.exp_rmspe]
    for way, ms in (("max", up), ("min", down)):
        for m in ms: assert _metric_direction(m.name) == way, m.name


def test_what_is_a_learning_rate_search():
    assert _is_lr_search(1e-7*1.2**np.arange(100)) and _is_lr_search(1e-7*1.2**np.arange(4))
    assert not _is_lr_search([1e-3]*50) and not _is_lr_search([]) and not _is_lr_search(np.linspace(1e-4, 1, 50)) and not _is_lr_search([1, 0, 1.])


def test_two_metrics_of_one_name():
    learn = make((accuracy, accuracy)); learn.fit(2, .1); h = TrainingHistory.from_learner(learn)
    assert list(h.values) == ["train_loss", "valid_loss", "valid_accuracy", "valid_accuracy_2"] and not any("broken off" in n for n in h.notes); same(h, learn)


def test_what_loggers_add_is_no_metric():
    d = dynamics({"loss": [2., 1], "eval_loss": [2., 1.5], "eval_runtime": [3., 3], "eval_samples_per_second": [9, 9]})
    assert d.metric == "valid_loss" and d.peak_performance == 1.5


def test_a_files_own_names_and_directions(tmp_path):
    (tmp_path/"a.csv").write_text("epoch,train_loss,valid_loss,reward,time\n0,1.0,1.0,3.0,00:01\nepoch,train_loss,valid_loss,time\n0,1.0,1.0,00:01\n")
    h = TrainingHistory.from_csv(tmp_path/"a.csv", directions={"reward": "max"})
    assert dynamics(h).metric == "valid_reward" and h.missing["valid_reward"].tolist() == [False, True]
    (tmp_path/"b.csv").write_text("epoch,fit,out\n5,1.0,2.0\n6,0.5,1.0\n"); h = TrainingHistory.from_csv(tmp_path/"b.csv", names={"fit": "train_loss", "out": "valid_loss"})
    assert h.epochs.tolist() == [5, 6] and dynamics(h).best_epoch == 6 and dynamics(h).final_gap == .5
