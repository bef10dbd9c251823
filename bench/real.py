"""Real data: 70,000 Fashion-MNIST images to disk, collages of them (multilabel), and slices of a brain (segmentation).

Needs `apt-get install dataset-fashion-mnist` and `pip install --no-deps nibabel nilearn`; one averaged brain, so it is split by contiguous blocks."""
import gzip, importlib.util, tempfile, time, warnings
from pathlib import Path
import numpy as np, torch, torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

FASHION = Path("/usr/share/datasets/fashion-mnist")
NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
PICTURES = Path(__file__).parent/"pictures"


def _idx(name):
    raw = gzip.decompress((FASHION/name).read_bytes())
    dims = [int.from_bytes(raw[4 + 4*i:8 + 4*i], "big") for i in range(raw[3])]
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4*len(dims)).reshape(dims).copy())


def fashion():
    "(images (70000, 28, 28) uint8, labels (70000,)): the 60,000 of training, then the 10,000 of the test."
    return [torch.cat([_idx(f"{split}-{what}-ubyte.gz") for split in ("train", "t10k")]) for what in ("images-idx3", "labels-idx1")]


def net(n_out, pool=3):
    block = lambda i, o: nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(block(1, 16), block(16, 32), nn.AdaptiveAvgPool2d(pool), nn.Flatten(), nn.Linear(32*pool*pool, n_out))


def train(model, x, y, loss, epochs, lr=3e-3, bs=128):
    opt, g = torch.optim.Adam(model.parameters(), lr), torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=g).split(bs):
            opt.zero_grad(); loss(model(x[rows]), y[rows]).backward(); opt.step()
    return model.eval()


def _save(axs, name):
    import matplotlib.pyplot as plt
    fig = np.ravel(axs)[0].figure; fig.savefig(PICTURES/f"{name}.png", dpi=70); plt.close(fig)


def all_of_fashion(folder):
    from interp_kit.interpret import ClassificationInterpretation
    from interp_kit.core import as_learner
    from interp_kit.predictions import Predictions
    torch.manual_seed(0)
    x, y = fashion(); x = x[:, None].float()/255; y = y.long()
    model = train(net(10), x[:12_000], y[:12_000], nn.CrossEntropyLoss(), 2)
    learn = as_learner(model, DataLoader(TensorDataset(x, y), batch_size=256, shuffle=True), nn.CrossEntropyLoss(), vocab=NAMES)
    seen = []; handle = model.register_forward_hook(lambda m, i, o: seen.append(len(o)))
    t = time.perf_counter(); i = ClassificationInterpretation.from_learner(learn, path=folder/"fashion"); wall = time.perf_counter() - t
    handle.remove()
    with torch.no_grad(): want = torch.cat([model(b).softmax(1) for b in x.split(1000)])
    p = Predictions.open(folder/"fashion", verify=True)
    _save(i.plot_confusion_matrix(), "fashion_confusion"); _save(i.plot_top_losses(8, ncols=4), "fashion_top_losses")
    p.to_parquet(folder/"fashion.parquet")
    return dict(what="70,000 Fashion-MNIST images to disk", rows_run=sum(seen), wall_s=wall, largest_difference_to_a_plain_loop=float((p.preds - want).abs().max()),
                accuracy_unseen=float((p[12_000:].targs == p[12_000:].decoded).float().mean()), most_confused=str(i.most_confused()[:3]), findings=[f.title for f in i.findings()][:4])


def collages(n, seed):
    "(images (n, 1, 56, 56), labels (n, 10)): 2×2 items, one to four of the cells filled."
    x, y = fashion(); r = np.random.default_rng(seed)
    imgs, labels = torch.zeros(n, 1, 56, 56), torch.zeros(n, 10)
    for k in range(n):
        for cell in r.choice(4, r.integers(1, 5), replace=False):
            j, (a, b) = int(r.integers(0, len(x))), divmod(int(cell), 2)
            imgs[k, 0, 28*a:28*a+28, 28*b:28*b+28] = x[j]/255.; labels[k, int(y[j])] = 1
    return imgs, labels


def multilabel(folder):
    from interp_kit.core import as_learner
    from interp_kit.interpret import interpret
    torch.manual_seed(0)
    x, y = collages(6000, 0)
    model = train(net(10, 4), x[:4000], y[:4000], nn.BCEWithLogitsLoss(), 6)
    learn = as_learner(model, DataLoader(TensorDataset(x[4000:], y[4000:]), batch_size=64), nn.BCEWithLogitsLoss(), vocab=NAMES)
    i = interpret(learn, path=folder/"collages", progress=False)
    _save(i.plot_confusion_matrix(), "collages_confusion"); _save(i.plot_top_losses(6, ncols=3), "collages_top_losses")
    m = i.metrics()
    return dict(what="2,000 collages of Fashion-MNIST", kind=type(i).__name__, **{k: float(m[k]) for k in ("average_precision_macro", "f1_macro", "exact_match")}, findings=[f.title for f in i.findings()][:4])


def brain():
    "(slices (n, 1, H, W), masks (n, H, W)): 0 background, 1 grey, 2 white matter, from the template that ships with nilearn."
    import nibabel
    at = Path(importlib.util.find_spec("nilearn").origin).parent/"datasets"/"data"
    vol = {k: nibabel.load(at/f"mni_icbm152_{k}_tal_nlin_sym_09a_converted.nii.gz").get_fdata() for k in ("t1", "gm", "wm")}
    scale = {k: v/v.max() for k, v in vol.items()}
    mask = np.where(scale["wm"] > .5, 2, np.where(scale["gm"] > .5, 1, 0)).transpose(2, 0, 1)
    return torch.from_numpy(scale["t1"].transpose(2, 0, 1)[:, None]).float()[20:170], torch.from_numpy(mask).long()[20:170]


class TinyUNet(nn.Module):
    "Two levels."
    def __init__(self, n_out, w=12):
        super().__init__()
        conv = lambda i, o: nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU())
        self.down, self.mid, self.up, self.out = conv(1, w), conv(w, 2*w), conv(3*w, w), nn.Conv2d(w, n_out, 1)
    def forward(self, x):
        a = self.down(x); b = self.mid(F.avg_pool2d(a, 2))
        return self.out(self.up(torch.cat([a, F.interpolate(b, size=a.shape[2:])], 1)))


def segmentation(folder):
    from interp_kit.core import as_learner
    from interp_kit.interpret import interpret
    torch.manual_seed(0)
    x, y = brain(); half = len(x)//2 # contiguous blocks of the one brain
    model = train(TinyUNet(3), x[:half], y[:half], nn.CrossEntropyLoss(), 3, bs=8, lr=1e-2)
    learn = as_learner(model, DataLoader(TensorDataset(x[half:], y[half:]), batch_size=8), nn.CrossEntropyLoss(), vocab=["background", "grey matter", "white matter"])
    i = interpret(learn, path=folder/"brain", progress=False)
    with torch.no_grad(): want = torch.cat([model(b).argmax(1) for b in x[half:].split(8)])
    _save(i.plot_top_losses(3), "brain_top_losses"); _save(i.plot_confusion_matrix(normalize=True), "brain_confusion")
    return dict(what=f"{len(x) - half} slices of a brain, {x.shape[2]}×{x.shape[3]}", kind=type(i).__name__, masks_equal=bool((i.decoded == want).all()),
                dice={k: round(float(v), 4) for k, v in i.dice()["dice"].items()}, mean_iou=float(i.metrics()["mean_iou"]), findings=[f.title for f in i.findings()][:4])


def run():
    import matplotlib; matplotlib.use("agg"); warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as d: return [f(Path(d)) for f in (all_of_fashion, multilabel, segmentation)]
