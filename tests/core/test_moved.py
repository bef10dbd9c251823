"What rooms share, on inputs that one of the former copies took and another did not."
from collections import namedtuple
from types import SimpleNamespace
import pytest, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from interp_kit.attribution import SaliencyMap, explain
from interp_kit.core import (
    ModelError, TaskError, as_learner, ignored_index, input_batches, loss_name, row_dims, untouched, watching)
from interp_kit.demo import demo_learner
from interp_kit.internals import ActivationStats, check_model, summary, weight_table
from interp_kit.interpret import MultiOutputInterpretation
from interp_kit.launchers.answers import _as_answer
from interp_kit.predictions import capture

pytestmark = pytest.mark.filterwarnings("ignore")
X, Y = torch.randn(12, 4), torch.randint(0, 3, (12,))
DL = DataLoader(TensorDataset(X, Y), 4)


def test_answers_with_named_parts():
    Outputs = namedtuple("Outputs", ["logits", "aux_logits2", "aux_logits1"])
    z = torch.randn(2, 5)
    assert torch.equal(_as_answer(Outputs(z, None, None), 2), z)
    assert torch.equal(_as_answer(dict(out=z), 2), z) and torch.equal(_as_answer((z,), 2), z)


def test_losses_of_rows_that_are_not_numbers_say_nothing():
    def spread(o, t): return ((o.squeeze(1) - t)/t.std()).square().mean()
    learn = as_learner(nn.Linear(4, 1), DataLoader(TensorDataset(X, torch.randn(12)), 12), spread, task="regression")
    assert "one by one" not in check_model(learn, seconds=60).table.to_string(max_colwidth=400)


def test_outputs_of_an_unknown_kind_have_all_rows():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Linear(4, 3)
        def forward(self, x): return SimpleNamespace(logits=self.f(x))
    net = Odd()
    for method in ("saliency", "integrated_gradients"):
        a = explain(net, X, method, target=lambda o: o.logits[:, 0])
        assert len(a.scores) == 12 and torch.allclose(a.scores, net.f(X)[:, 0].detach(), atol=1e-6)


def test_only_a_number_is_left_out_by_a_loss():
    inner = SimpleNamespace(ignore_index=None)
    assert ignored_index(SimpleNamespace(ignore_index=[255, 254], func=None)) is None
    assert ignored_index(SimpleNamespace(ignore_index=3, func=inner)) == 3


def test_meta_buffers_are_left_alone():
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 5))
    with untouched(nn.Sequential(layer.to("meta"))): pass
    assert "meta" in weight_table(nn.Sequential(layer)).reason.iloc[0]


def test_names_of_layers_are_quoted():
    with pytest.raises(ModelError, match="no layer '2'"), watching(nn.Sequential(nn.Linear(2, 2)), print, "2"): pass


def test_each_output_has_its_vocabulary():
    dl = SimpleNamespace(vocab=[["a", "b"], ["c", "d", "e"]])
    preds = torch.rand(6, 2).softmax(1), torch.rand(6, 3).softmax(1)
    targs = torch.randint(0, 2, (6,)), torch.randint(0, 3, (6,))
    interp = MultiOutputInterpretation(dl, None, preds, targs, tuple(p.argmax(1) for p in preds), torch.rand(6))
    assert [list(o.vocab) for o in interp.outputs] == dl.vocab and list(map(list, interp.vocab)) == dl.vocab


def test_what_is_asked_is_checked_whatever_the_method():
    with pytest.raises(TaskError, match="neuron_index='a'"):
        SaliencyMap(nn.Linear(4, 3)).explain(X[:2], neuron_index="a")


def test_named_arguments_of_observers_and_losses_without_a_name():
    learn = as_learner(nn.Linear(4, 3), DL, nn.CrossEntropyLoss())
    stats = ActivationStats(learn)
    stats.attach(learn=learn)
    stats.detach()
    assert loss_name(None) == "NoneType"


def test_lists_are_inputs_and_batches():
    net = nn.Linear(2, 3)
    assert torch.equal(next(input_batches(net, ([[1., 2.], [3., 4.]],)))[0], torch.tensor([[1., 2.], [3., 4.]]))
    learn = as_learner(nn.Linear(4, 3), [(X[:8], Y[:8]), (X[8:], Y[8:])], nn.CrossEntropyLoss())
    assert "Linear" in repr(summary(learn)) and len(capture(learn, progress=False)) == 12


def test_a_row_of_the_data_tells_its_dimensions():
    signals = DataLoader(TensorDataset(torch.randn(6, 3, 20), Y[:6]), 2)
    assert row_dims(as_learner(nn.Sequential(nn.Flatten(), nn.Linear(60, 3)), signals, nn.CrossEntropyLoss())) == 2
    assert row_dims(as_learner(nn.Linear(4, 3), [(X, Y)], nn.CrossEntropyLoss())) == 1
    assert row_dims(demo_learner()) == 3 and row_dims(demo_learner("text")) is None
    models = nn.Conv1d(1, 1, 1), nn.Conv3d(1, 1, 1), nn.LSTM(2, 2), nn.Linear(2, 2)
    assert [row_dims(m) for m in models] == [2, 4, 2, None]
