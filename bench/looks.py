"Where real models look, on real photos: an ImageNet model, a face detector, a fastai learner. Pictures into bench/pictures/; rows say where the maps peak."
from pathlib import Path
import matplotlib.patches, matplotlib.pyplot, numpy as np, torch
from bench.photos import lite0, photo

HERE = Path(__file__).parent/"pictures"
PHOTOS = ("chelsea", "coffee", "rocket", "astronaut", "camera", "china", "flower")
METHODS = ("gradcam", "layercam", "integrated_gradients", "deep_lift", "rise")
OPTIONS = dict(integrated_gradients=dict(tol=.05), rise=dict(n_masks=1000, activation=lambda z: z.softmax(1)))


def _save(ax, name):
    fig = np.ravel(ax)[0].figure
    fig.savefig(HERE/f"{name}.png", dpi=60, bbox_inches="tight"); matplotlib.pyplot.close(fig)


def imagenet_names():
    from torchvision.models import MobileNet_V2_Weights
    return MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]


def _photo(model, names, name):
    "A row of maps for the predicted class of one photo."
    from interp_kit.all import explain
    from interp_kit.plots import new_grid, show_image
    axs = new_grid(len(METHODS) + 1, nrows=1, panel=(2.6, 3.))
    image = photo(name, 224); x = (image - .498)/.502
    p, c = (float(v) for v in model(x[None])[0].softmax(0).max(0)) # the normalisation that the lite models were trained with
    show_image(image, axs[0], title=f"{name}\n{names[int(c)]} {p:.2f}")
    rows = []
    for ax, m in zip(axs[1:], METHODS):
        a = explain(model, x, m, **OPTIONS.get(m, {}))
        a.pictures = [image]; a.show(ax=ax, title=m)
        h = a.heatmap()[0]; y, x_ = divmod(int(h.argmax()), h.shape[1])
        rows.append(dict(photo=name, predicted=names[int(c)], probability=p, method=m, peak_x=x_, peak_y=y, delta=None if a.delta is None else float(a.delta[0])))
    _save(axs, f"looks_{name}")
    return rows


class Faces(torch.nn.Module):
    "MTCNN with low thresholds, as a detector of torchvision's kind: (n, 3, H, W) in [0, 1] -> boxes, labels, scores."
    def __init__(self):
        from facenet_pytorch import MTCNN
        super().__init__()
        self.net = MTCNN(keep_all=True, thresholds=[.3, .3, .3], min_face_size=24)
    def forward(self, images):
        found = []
        for im in images:
            boxes, probs = self.net.detect((im.permute(1, 2, 0)*255).round().byte().cpu().numpy())
            boxes = np.zeros((0, 4)) if boxes is None else boxes
            found.append(dict(boxes=torch.tensor(np.asarray(boxes, dtype=np.float32)).reshape(-1, 4), labels=torch.zeros(len(boxes), dtype=torch.long), scores=torch.tensor([float(p) for p in probs] if len(boxes) else [])))
        return found


def _faces():
    "What makes the face detector see the face in two photos."
    from interp_kit.all import DRISE
    from interp_kit.plots import new_grid
    rows, axs, detector = [], new_grid(2, nrows=1, panel=(3.4, 3.6)), Faces()
    for ax, name in zip(axs, ("astronaut", "camera")):
        image = x = photo(name, 256)
        found = detector([x])[0]; k = int(found["scores"].argmax()); box = found["boxes"][k]
        one = dict(boxes=box[None], labels=found["labels"][k:k + 1], scores=found["scores"][k:k + 1])
        a = DRISE(detector, n_masks=800, p=.6, cell=12).explain(x, one)[0]
        a.pictures = [image]; a.show(ax=ax, title=f"{name}: the face, {float(one['scores'][0]):.2f}")
        l, t, r, b = box.tolist(); ax.add_patch(matplotlib.patches.Rectangle((l, t), r - l, b - t, fill=False, ec="white", lw=2))
        h = a.heatmap()[0]; y, x_ = divmod(int(h.argmax()), h.shape[1])
        rows.append(dict(photo=name, method="drise", peak_x=x_, peak_y=y, box=[round(v) for v in (l, t, r, b)], inside=l <= x_ <= r and t <= y <= b))
    _save(axs, "looks_faces")
    return rows


def _learner():
    "The worst rows of a fastai learner with their maps."
    from interp_kit.all import demo_learner, interpret
    for task in ("classification", "multilabel", "segmentation"):
        _save(interpret(demo_learner(task), progress=False).plot_top_losses(6, ncols=3, heatmap="gradcam"), f"looks_{task}")


def run():
    "Draw all pictures."
    matplotlib.use("agg")
    model, names = lite0(), imagenet_names()
    rows = [r for name in PHOTOS for r in _photo(model, names, name)]
    rows += _faces()
    _learner()
    return rows
