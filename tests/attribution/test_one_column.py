"One output column for two classes: each class is explained as by a model that has a column for each."
import numpy as np, pytest, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from fastai.losses import BCEWithLogitsLossFlat
from interp_kit.attribution import explain, judge
from interp_kit.attribution.explain import CAM_METHODS
from interp_kit.core import LabelError, as_learner, two_columns
from interp_kit.interpret import interpret

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = ["healthy", "sick"]


class Net(nn.Module):
    def __init__(self, dense=False, sigmoid=False):
        super().__init__()
        self.c = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1), nn.ReLU())
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
        self.head = nn.Conv2d(4, 1, 1) if dense else pooled
        self.sigmoid = sigmoid
    def forward(self, x):
        z = self.head(self.c(x))
        return z.sigmoid() if self.sigmoid else z


class Pair(nn.Module):
    "The same with two columns."
    def __init__(self, net):
        super().__init__()
        self.net = net
    def forward(self, x): return two_columns(self.net(x), logits=not self.net.sigmoid)


def made(dense=False, sigmoid=False, names=NAMES, seed=5):
    torch.manual_seed(seed)
    net, x = Net(dense, sigmoid), torch.randn(5, 3, 24, 20)
    y = (torch.rand(5, 1, 24, 20) if dense else torch.rand(5, 1)).round()
    with torch.no_grad(): # half of the rows, or pixels, on each side
        bias = next(m for m in net.head.modules() if hasattr(m, "bias") and m.bias is not None).bias
        net.sigmoid = False
        bias -= net(x).median()
        net.sigmoid = sigmoid
    loss = nn.BCELoss() if sigmoid else BCEWithLogitsLossFlat() if not dense else nn.BCEWithLogitsLoss()
    return as_learner(net, DataLoader(TensorDataset(x, y), 5), loss, vocab=names), Pair(net), x


GRADIENTS = ("integrated_gradients", "saliency", "gradient_times_input", "deep_lift")
@pytest.mark.parametrize("sigmoid", [False, True], ids=["logits", "probabilities"])
@pytest.mark.parametrize("method", [*GRADIENTS, *(m for m in CAM_METHODS if m not in ("scorecam", "opticam"))])
def test_each_class_is_explained(method, sigmoid):
    learn, pair, x = made(sigmoid=sigmoid)
    for target in (None, 0, 1, [0, 1, 1, 0, 1]):
        got, want = explain(learn, x, method, target), explain(pair, x, method, target)
        assert torch.allclose(got.values, want.values, atol=1e-6) and torch.allclose(got.scores, want.scores, atol=1e-6)
        assert got.target == want.target
    named = explain(learn, x, method, "healthy")
    assert named.labels == ["healthy"]*5 and torch.equal(named.values, explain(learn, x, method, 0).values)
    assert explain(learn, x, method).labels == [NAMES[c] for c in explain(pair, x, method).target]


def test_predicted_classes_are_those_of_the_interpretation():
    for sigmoid in (False, True):
        learn, _, x = made(sigmoid=sigmoid)
        p = interpret(learn, progress=False)
        assert p.decoded.tolist() == explain(learn, x, "saliency").target and set(p.decoded.tolist()) == {0, 1}


@pytest.mark.parametrize("sigmoid", [False, True], ids=["logits", "probabilities"])
def test_rise_and_the_judge_score_both_classes_by_probabilities(sigmoid):
    learn, pair, x = made(sigmoid=sigmoid)
    probs = lambda b: two_columns(pair.net(b) if sigmoid else pair.net(b).sigmoid())
    for target in (0, 1, None):
        torch.manual_seed(0)
        got = explain(learn, x[:2], "rise", target, n_masks=64, seed=1)
        want = explain(probs, x[:2], "rise", target, n_masks=64, seed=1)
        assert torch.allclose(got.values, want.values, atol=1e-6)
        assert [l in NAMES for l in got.labels] == [True, True]
    sick, healthy = (judge(learn, x, ["saliency"], target=c, n_steps=4, n_boot=20, n_again=1).values for c in (1, 0))
    assert np.allclose(sick["insertion"][0] + healthy["insertion"][0], 1, atol=.02)


def test_masks_of_one_channel():
    learn, pair, x = made(dense=True)
    for target in (0, 1, None):
        got, want = explain(learn, x, "saliency", target), explain(pair, x, "saliency", target)
        assert torch.allclose(got.values, want.values, atol=1e-6) and got.target == want.target
    z = pair.net(x)[:, 0]
    one = explain(pair.net, x, "saliency") # a plain model: the pixels that are said to be the class
    assert torch.allclose(one.scores, torch.stack([o[o > 0].mean() for o in z]), atol=1e-6)


def test_names_and_their_absence():
    learn, pair, x = made(names=None)
    assert explain(learn, x, "saliency", 0).labels == ["class 0"]*5
    with pytest.raises(LabelError, match="2 outputs"): explain(learn, x, "saliency", 2)
    assert explain(pair.net, x, "saliency").labels == ["output"]*5 # of a plain model nothing is known
    learn, pair, x = made(names=["fever"]) # one label of its own, which is there or not
    assert explain(learn, x, "saliency").labels == ["fever"]*5
    assert torch.equal(explain(learn, x, "saliency", "fever").values, explain(pair.net, x, "saliency", 0).values)
    with pytest.raises(LabelError, match="1 output"): explain(learn, x, "saliency", 1)


def test_regression_has_one_output():
    torch.manual_seed(0)
    net, x = Net(), torch.randn(4, 3, 16, 16)
    learn = as_learner(net, DataLoader(TensorDataset(x, torch.randn(4, 1)), 4), nn.MSELoss())
    a = explain(learn, x, "saliency")
    assert a.labels == ["output"]*4 and torch.allclose(a.scores, net(x)[:, 0].detach())
