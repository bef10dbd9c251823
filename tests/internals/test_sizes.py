"Parameter counts and activation bytes against torchinfo, and summaries where fastai's fails."
import json, sys
from pathlib import Path
import numpy as np, pytest, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers import needs
from interp_kit.core import DataError, ModelError, as_learner
from interp_kit.demo import demo_learner
from interp_kit.internals.sizes import _example_inputs, model_sizes, print_summary, summary


def zoo():
    from torchvision.models import densenet121, resnet18, resnet50
    yield "resnet18", resnet18(), (3, 64, 64)
    yield "resnet50", resnet50(), (3, 64, 64)
    yield "densenet121", densenet121(), (3, 64, 64)
    yield "lstm", nn.Sequential(nn.LSTM(5, 7, 2, batch_first=True)), (4, 5)
    layer = nn.Linear(6, 6)
    yield "a layer called twice", nn.Sequential(layer, nn.ReLU(), layer), (6,)


@pytest.mark.parametrize("name,model,size", list(zoo()), ids=lambda o: o if isinstance(o, str) else "")
def test_counts_and_bytes_equal_torchinfo(name, model, size):
    needs("torchinfo")
    import torchinfo
    want, ours = torchinfo.summary(model, (1, *size), verbose=0), summary(model, size)
    assert ours.totals["parameters"] == want.total_params == sum(p.numel() for p in model.parameters())
    assert ours.totals["trainable"] == want.trainable_params
    assert ours.totals["parameter_bytes"] == want.total_param_bytes
    assert ours.totals["forward_backward_bytes"] == want.total_output_bytes
    leaves = [(tuple(o.output_size), o.output_bytes) for o in want.summary_list if o.is_leaf_layer]
    assert [(s, b) for s, b in zip(ours.table["shape"], ours.table.activation_bytes)] == leaves


def test_weights_of_two_layers_that_are_one_tensor_count_once():
    "torchinfo counts them twice."
    needs("torchinfo")
    import torchinfo
    a, b = nn.Embedding(10, 6), nn.Linear(6, 10, bias=False); b.weight = a.weight
    model = nn.Sequential(a, b)
    ours = summary(model, 3)
    assert ours.totals["parameters"] == sum(p.numel() for p in model.parameters()) == 60
    assert torchinfo.summary(model, input_data=torch.zeros(1, 3, dtype=torch.long), verbose=0).total_params == 120
    assert ours.totals["forward_backward_bytes"] == 2*4*(3*6 + 3*10)


def test_frozen_parameters_and_batch_bytes():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)); model[0].weight.requires_grad_(False)
    learn = as_learner(model, DataLoader(TensorDataset(torch.randn(10, 4), torch.zeros(10).long()), 5), nn.CrossEntropyLoss())
    s = summary(learn)
    assert s.totals["frozen"] == 12 and s.totals["trainable"] == 3 + 8
    assert s.table.batch_bytes.tolist() == [5*3*4, 5*2*4]
    assert "in part" in str(s) and "CrossEntropyLoss" in s._repr_html_()


class Several(nn.Module):
    "Two inputs, of numbers and of indices; a tuple of a tensor, a dict and None comes out."
    def __init__(self): super().__init__(); self.emb, self.lin, self.rnn, self.token = nn.Embedding(5, 3), nn.Linear(4, 3), nn.GRU(3, 3), nn.Parameter(torch.zeros(3))
    def forward(self, x, i):
        out, h = self.rnn(self.lin(x) + self.emb(i) + self.token)
        return out, dict(hidden=h), None


def test_several_inputs_and_nested_outputs():
    s = summary(Several(), [(6, 4), (6,)])
    assert [o for o in s.table.layer] == ["lin", "emb", "rnn", "Several"] # numbers first: forward's own order
    assert s.table.parameters.sum() == sum(p.numel() for p in Several().parameters())
    assert s.table.iloc[-1].reason and np.isnan(s.table.iloc[-1].activation_bytes)
    named = model_sizes(Several(), dict(x=torch.randn(2, 6, 4), i=torch.zeros(2, 6).long()))
    assert named["shape"].iloc[0] == (1, 6, 3)
    json.dumps(s.to_dict(), allow_nan=False)


def test_what_fastais_summary_fails_on(capsys):
    "Callback classes among the callbacks, losses without a name, tuples as inputs."
    from fastai.callback.hook import ActivationStats
    from fastai.callback.core import Callback
    class Angry(Callback):
        def before_fit(self): raise RuntimeError("must not be called")
        before_validate = before_batch = after_pred = before_fit
    learn = demo_learner("tabular")
    learn.add_cbs([ActivationStats, Angry()])
    learn.loss_func = lambda out, y: nn.functional.cross_entropy(out, y.squeeze(1))
    s = summary(learn)
    assert "<lambda>" in str(s) and "ActivationStats" in str(s) and s.inputs == ((1, 1), (1, 13))
    print_summary(s)
    assert capsys.readouterr().out.strip() == str(s)
    assert summary(demo_learner("text")).totals["parameters"] == sum(p.numel() for p in demo_learner("text").model.parameters())


@pytest.mark.parametrize("make", [lambda m: m.half(), lambda m: m.bfloat16(), lambda m: m.to("meta"), lambda m: torch.ao.quantization.quantize_dynamic(m, {nn.Linear}),
                                  lambda m: nn.Sequential(nn.utils.parametrizations.weight_norm(m[0]), m[1]), lambda m: nn.Sequential(nn.Flatten(), *m, nn.Identity())],
                         ids=["half", "bfloat16", "meta", "int8", "weight_norm", "wrapped"])
def test_odd_models_have_a_summary(make):
    model = make(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))
    s = summary(model, (4,))
    assert s.totals["parameters"] == sum(p.numel() for p in model.parameters())
    assert s.table.iloc[-1]["shape"] == (1, 2) or s.table.iloc[-1].reason
    json.dumps(s.to_dict(), allow_nan=False); s._repr_html_()


def test_errors_name_the_remedy_and_leave_no_hook():
    model = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(DataError, match="input_size, e.g. \\(3, 224, 224\\)"): summary(model)
    with pytest.raises(ModelError, match="inputs of shape"): model_sizes(model, (5,))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()) and model.training
    assert _example_inputs(model, torch.randn(7, 4))[0].shape == (1, 4)


def test_sizes_leave_model_and_random_state_alone():
    learn = demo_learner(); learn.model.train(); learn.model[0][0][1].eval()
    modes, state, rng = [m.training for m in learn.model.modules()], {k: v.clone() for k, v in learn.model.state_dict().items()}, torch.get_rng_state()
    summary(learn)
    assert modes == [m.training for m in learn.model.modules()] and torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(v, state[k]) for k, v in learn.model.state_dict().items())
