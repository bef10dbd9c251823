"Models of two pictures: each has the map of the call that saw it."
import pytest, torch
from torch import nn
from interp_kit.attribution import GradCAM, explain


def encoder(n):
    first, second = nn.Conv2d(1, n, 3, padding=1), nn.Conv2d(n, n, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU())


class Siamese(nn.Module):
    "One encoder for three pictures, of different sizes."
    def __init__(self):
        super().__init__()
        self.enc, self.head = encoder(5), nn.Linear(15, 3)
    def forward(self, *xs): return self.head(torch.cat([self.enc(x).mean((2, 3)) for x in xs], 1))


class TwoEncoders(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = encoder(4), encoder(6), nn.Linear(10, 3)
    def forward(self, a, b): return self.head(torch.cat([self.left(a).mean((2, 3)), self.right(b).mean((2, 3))], 1))


class Fused(nn.Module):
    "The pictures meet in the first layer."
    def __init__(self):
        super().__init__()
        self.enc, self.head = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()), nn.Linear(4, 3)
    def forward(self, a, b): return self.head(self.enc(torch.cat([a, b], 1)).mean((2, 3)))


def literal(net, layer, xs, call, target):
    outs = []
    with torch.enable_grad():
        handle = layer.register_forward_hook(lambda m, i, o: outs.append(o))
        score = net(*xs)[:, target].sum()
        handle.remove()
        A, G = outs[call], torch.autograd.grad(score, outs)[call]
    return torch.einsum("bk,bkhw->bhw", G.mean((2, 3)), A).clamp_min(0).detach()


def enlarged(m, x): return nn.functional.interpolate(m[:, None], size=x.shape[2:], mode="bilinear")[:, 0]


def test_each_call_is_of_its_picture():
    torch.manual_seed(1)
    net, xs = Siamese().eval(), tuple(torch.randn(2, 1, *s) for s in ((20, 20), (16, 28), (20, 20)))
    a = explain(net, xs, "gradcam", 2)
    for k, x in enumerate(xs):
        assert torch.allclose(a.values[k], enlarged(literal(net, net.enc[4], xs, k, 2), x), atol=1e-6)
    assert [tuple(v.shape) for v in a.values] == [(2, 20, 20), (2, 16, 28), (2, 20, 20)]
    assert torch.allclose(GradCAM(net)(xs, 2), a.values[0]) # alone it gives that of the first


def test_two_encoders_need_a_layer_each():
    torch.manual_seed(2)
    net, xs = TwoEncoders().eval(), (torch.randn(1, 1, 24, 24), torch.randn(1, 1, 18, 30))
    with pytest.warns(UserWarning, match=r"Input 0 is a picture that right.* does not see.*layer=\["):
        a = explain(net, xs, "gradcam", 1)
    assert a.values[0] is None
    assert torch.allclose(a.values[1], enlarged(literal(net, net.right[4], xs, 0, 1), xs[1]), atol=1e-6)
    both = explain(net, xs, "hirescam", 1, layer=["left.4", "right.4"])
    assert both.values[0].shape == (1, 24, 24) and both.values[1].shape == (1, 18, 30)
    assert all(v.abs().sum() > 0 for v in both.values)
    both = explain(net, xs, "gradcam", 1, layer=["left.4", "right.4"])
    assert torch.allclose(both.values[0], enlarged(literal(net, net.left[4], xs, 0, 1), xs[0]), atol=1e-6)


@pytest.mark.parametrize("method", ["gradcam", "scorecam", "eigencam"])
def test_pictures_that_meet_share_their_map(method):
    torch.manual_seed(3)
    net, xs = Fused().eval(), (torch.randn(2, 1, 16, 16), torch.randn(2, 1, 16, 16))
    a = explain(net, xs, method, 0)
    assert torch.isfinite(a.values[0]).all() and a.values[1].shape == (2, 16, 16)
    if method == "gradcam": assert torch.equal(a.values[0], a.values[1])
