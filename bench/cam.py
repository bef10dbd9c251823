"Class activation maps on ResNet-18 at 224×224 against captum and pytorch-grad-cam."
import contextlib, copy, io, warnings
import torch
from bench.measure import paired


def _plain(model):
    "A copy without in-place ReLUs, which pytorch-grad-cam reads wrongly."
    m = copy.deepcopy(model)
    for o in m.modules():
        if hasattr(o, "inplace"): o.inplace = False
    return m


def _quiet(f):
    def run():
        with contextlib.redirect_stderr(io.StringIO()): f()
    return run


def run():
    warnings.simplefilter("ignore")
    import pytorch_grad_cam as pgc
    from captum.attr import LayerGradCam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from torchvision.models import resnet18
    from interp_kit.attribution.cam import GradCAM
    torch.manual_seed(0); torch.set_num_threads(1); net = resnet18().eval(); peer = _plain(net); x, to = torch.randn(1, 3, 224, 224), [ClassifierOutputTarget(3)]
    ours = {k: GradCAM(net, "layer4", k) for k in ("gradcam", "gradcam++", "layercam", "eigencam")}; captum = LayerGradCam(peer, peer.layer4)
    res = [dict(what="GradCAM, against captum LayerGradCam", **paired(lambda: ours["gradcam"](x, 3), lambda: captum.attribute(x, 3))),
           dict(what="GradCAM that finds its layer first, against captum that is told", **paired(lambda: GradCAM(net)(x, 3), lambda: captum.attribute(x, 3)))]
    for k, name in (("gradcam", "GradCAM"), ("gradcam++", "GradCAMPlusPlus"), ("layercam", "LayerCAM"), ("eigencam", "EigenCAM")):
        with getattr(pgc, name)(peer, [peer.layer4]) as other: res.append(dict(what=f"{name}, against pytorch-grad-cam", **paired(lambda: ours[k](x, 3), lambda: other(x, to))))
    peer.requires_grad_(True); size = x[..., :112, :112].contiguous()
    with pgc.ScoreCAM(peer, [peer.layer4]) as other:
        score = GradCAM(net, "layer4", "scorecam")
        res.append(dict(what="ScoreCAM, 512 channels at 224, against pytorch-grad-cam", **paired(lambda: score(x, 3), _quiet(lambda: other(x, to)), n=3, warm=0)))
        res.append(dict(what="ScoreCAM, 512 channels at 112, against pytorch-grad-cam", **paired(lambda: score(size, 3), _quiet(lambda: other(size, to)), n=5, warm=0)))
    return res
