"Class activation maps against pytorch-grad-cam, torchcam, captum and the papers' formulas written out."
import copy, math
import numpy as np, pytest, torch
from torch import nn
from torchvision.models import resnet18
from helpers import needs
from interp_kit.attribution.cam import GradCAM
from interp_kit.attribution.opticam import _opti_weights as opti_weights


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0); return resnet18().eval()


@pytest.fixture(scope="module")
def peer_net(net):
    "The same without in-place steps, which pytorch-grad-cam cannot see through."
    m = copy.deepcopy(net)
    for o in m.modules():
        if hasattr(o, "inplace"): o.inplace = False
    return m


@pytest.fixture(scope="module")
def x():
    torch.manual_seed(1); return torch.randn(2, 3, 64, 96)


CLASSES = [3, 700]


def same(got, want, tol=1e-5): assert got.shape == want.shape and float((got - want).abs().max()) <= tol*float(want.abs().max())


def pgc_map(name, model, layer, x, classes):
    "The map of pytorch-grad-cam at the layer's size, before it is scaled."
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    targets = [ClassifierOutputTarget(c) for c in classes]
    m = copy.deepcopy(model); layer = m.get_submodule(layer)
    with getattr(pytorch_grad_cam, name)(model=m, target_layers=[layer]) as p:
        p(x, targets)
        seen = p.activations_and_grads
        a, g = seen.activations[0].numpy(), seen.gradients[0].numpy() if seen.gradients else None
        return torch.from_numpy(np.asarray(p.get_cam_image(x, layer, targets, a, g, False)))


def torchcam_map(name, model, layer, x, classes):
    import torchcam.methods
    m = copy.deepcopy(model)
    with getattr(torchcam.methods, name)(m, layer) as e:
        if name == "ScoreCAM":
            with torch.no_grad(): m(x)
            return e(class_idx=classes, normalized=False)[0]
        return e(class_idx=classes, scores=m(x), normalized=False)[0]


@pytest.mark.parametrize("layer", ["layer4", "layer3", "layer2.0"])
@pytest.mark.parametrize("method,peer", [("gradcam", "GradCAM"), ("layercam", "LayerCAM"), ("hirescam", "HiResCAM")])
def test_pytorch_grad_cam(net, peer_net, x, method, peer, layer):
    needs("pytorch_grad_cam")
    want = pgc_map(peer, peer_net, layer, x, CLASSES)
    same(GradCAM(net, layer, method)(x, CLASSES, upsample=False, relu=False), want)
    same(GradCAM(net, layer, method)(x, CLASSES, upsample=False), want.clamp_min(0))


@pytest.mark.parametrize("layer", ["layer4", "layer3"])
@pytest.mark.parametrize("method,peer", [("gradcam", "GradCAM"), ("layercam", "LayerCAM")])
def test_torchcam(net, x, method, peer, layer):
    needs("torchcam")
    same(GradCAM(net, layer, method)(x, CLASSES, upsample=False), torchcam_map(peer, net, layer, x, CLASSES))


@pytest.mark.parametrize("layer", ["layer4", "layer2"])
def test_eigencam_up_to_sign(net, peer_net, x, layer):
    needs("pytorch_grad_cam")
    want, got = pgc_map("EigenCAM", peer_net, layer, x, CLASSES), GradCAM(net, layer, "eigencam")(x, upsample=False, relu=False)
    sign = torch.sign((got*want).sum((1, 2), keepdim=True))
    same(got, sign*want, 2e-5) # pytorch-grad-cam works in float32
    mean = []; h = net.get_submodule(layer).register_forward_hook(lambda m, i, o: mean.append(o.mean(1)))
    with torch.no_grad(): net(x)
    h.remove()
    for a, b in zip(got, mean[0]): assert np.corrcoef(a.flatten(), b.flatten())[0, 1] > 0


@pytest.mark.parametrize("layer", ["layer4", "layer3", "layer4.1.bn2", "conv1"])
def test_captum_signed(net, x, layer):
    needs("captum")
    from captum.attr import LayerGradCam
    m = copy.deepcopy(net)
    for o in m.modules():
        if hasattr(o, "inplace"): o.inplace = False
    want = LayerGradCam(m, m.get_submodule(layer)).attribute(x, CLASSES)[:, 0].detach()
    if layer == "conv1": same(GradCAM(m, layer)(x, CLASSES, upsample=False, relu=False), want)
    same(GradCAM(net, layer)(x, CLASSES, upsample=False, relu=False), want)


class Tiny(nn.Module):
    "Two convolutions, ReLU, a hidden linear layer: float64 literal versions can follow it."
    def __init__(self):
        super().__init__(); self.features = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(inplace=True), nn.Conv2d(6, 7, 3, padding=1), nn.ReLU(inplace=True))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(7*7*9, 20), nn.Tanh(), nn.Linear(20, 4))
    def forward(self, x): return self.head(self.features(x))


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(3); return Tiny().double().eval(), torch.randn(2, 3, 16, 20, dtype=torch.float64)


def test_gradcam_plus_plus_is_the_paper(tiny):
    "Equations 10 and 19 pixel by pixel: Y = exp(S), so the derivatives of Y by A are exp(S) times powers of that of S."
    m, x = tiny; got = GradCAM(m, "features", "gradcam++")(x, [1, 2], upsample=False)
    for b, c in enumerate([1, 2]):
        A = m.features(x[b:b+1]).detach().requires_grad_(); S = m.head(A)[0, c]; g, = torch.autograd.grad(S, A)
        A, g, Y = A.detach()[0].numpy(), g[0].numpy(), math.exp(S.item()); K, H, W = A.shape
        L = np.zeros((H, W))
        for k in range(K):
            w, total = 0., A[k].sum()
            for i in range(H):
                for j in range(W):
                    d1, d2, d3 = Y*g[k, i, j], Y*g[k, i, j]**2, Y*g[k, i, j]**3
                    if d1 > 0: w += d2/(2*d2 + total*d3)*d1
            L += w*A[k]
        same(got[b]*Y, torch.from_numpy(np.maximum(L, 0)), 1e-9)


def bilinear(a, H, W):
    "align_corners=False, written out."
    h, w = a.shape; out = np.zeros((H, W))
    for i in range(H):
        for j in range(W):
            y, z = max((i + .5)*h/H - .5, 0), max((j + .5)*w/W - .5, 0)
            y0, z0 = min(int(y), h - 1), min(int(z), w - 1); y1, z1 = min(y0 + 1, h - 1), min(z0 + 1, w - 1); p, q = y - y0, z - z0
            out[i, j] = (1-p)*((1-q)*a[y0, z0] + q*a[y0, z1]) + p*((1-q)*a[y1, z0] + q*a[y1, z1])
    return out


def masks_of(A, H, W):
    "Channels upsampled, then stretched to [0, 1]."
    res = np.stack([bilinear(a, H, W) for a in A]); lo, hi = res.min((1, 2), keepdims=True), res.max((1, 2), keepdims=True)
    return np.where(hi > lo, (res - lo)/np.where(hi > lo, hi - lo, 1), 0)


@pytest.mark.parametrize("batch_size", [None, 3])
def test_scorecam_is_the_paper(tiny, batch_size):
    m, x = tiny
    got, up = (GradCAM(m, "features", "scorecam", batch_size=batch_size)(x, [1, 2], upsample=u) for u in (False, True))
    for b, c in enumerate([1, 2]):
        with torch.no_grad():
            A = m.features(x[b:b+1])[0].numpy()
            s = np.array([float(m(x[b:b+1]*torch.from_numpy(M))[0, c]) for M in masks_of(A, 16, 20)]) - float(m(torch.zeros_like(x[:1]))[0, c])
        w = np.exp(s)/np.exp(s).sum(); L = np.maximum((w[:, None, None]*A).sum(0), 0)
        same(got[b], torch.from_numpy(L), 1e-9); same(up[b], torch.from_numpy(bilinear(L, 16, 20)), 1e-9)


def test_opticam_is_the_papers_objective_climbed_by_adam(tiny):
    "Adam written out, the best weights of all steps kept; the gradient by u from autograd of the literal objective."
    m, x = tiny; n, lr = 12, .1
    for b, c in enumerate([1, 2]):
        A = m.features(x[b:b+1]).detach()
        u, mean, var, best, top = torch.zeros(7, dtype=torch.float64), 0., 0., None, -math.inf
        for t in range(1, n + 2):
            u = u.detach().requires_grad_(); a = torch.exp(u)/torch.exp(u).sum()
            S = nn.functional.interpolate((a[None, :, None, None]*A).sum(1, keepdim=True), (16, 20), mode="bilinear", align_corners=False)
            M = (S - S.min())/(S.max() - S.min()); s = m(x[b:b+1]*M)[0, c]
            if s.item() > top: top, best, mask = s.item(), a.detach(), M.detach()
            g = -torch.autograd.grad(s, u)[0]
            mean, var = .9*mean + .1*g, .999*var + .001*g*g
            u = u.detach() - lr*(mean/(1 - .9**t))/((var/(1 - .999**t)).sqrt() + 1e-8)
        with torch.no_grad(): maps = m.features(x)
        got = opti_weights(maps, x, lambda z: m(z)[torch.arange(2), torch.tensor([1, 2])], n_steps=n, lr=lr)
        same(got[b], best, 1e-9); same(GradCAM(m, "features", "opticam", n_steps=n, lr=lr)(x, [1, 2])[b], mask[0, 0], 1e-9)


def test_the_two_libraries_differ_by_more_than_a_percent_where_the_papers_decide(peer_net, x):
    "Why the oracle of these two is the paper: the figures are in docs/decisions."
    needs("pytorch_grad_cam", "torchcam")
    x = x[:1]; off = lambda a, b: float((a/a.abs().max() - b/b.abs().max()).abs().max())
    a, b, ours = pgc_map("GradCAMPlusPlus", peer_net, "layer3", x, [3]), torchcam_map("GradCAMpp", peer_net, "layer3", x, [3]), GradCAM(peer_net, "layer3", "gradcam++")(x, 3, upsample=False)
    print("gradcam++", off(a.clamp_min(0), b), off(ours, a.clamp_min(0)), off(ours, b)); assert off(a.clamp_min(0), b) > .01
