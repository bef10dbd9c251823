"D-RISE against literal versions, xaitk and Datumaro's formula; on the demo detector and on MTCNN."
import warnings
from pathlib import Path
import numpy as np, pytest, torch
from torch import nn
from helpers import needs
from interp_kit.attribution.drise import DRISE, _detection_similarity as detection_similarity
from interp_kit.core import DataError, ModelError, TaskError

pytestmark = pytest.mark.filterwarnings("ignore:.*never found again")
SIZE, CLASSES = (40, 56), 4


def boxes(rng, n):
    xy = rng.uniform(0, (40, 24), (n, 2)); wh = rng.uniform(6, 16, (n, 2))
    return torch.from_numpy(np.concatenate([xy, xy + wh], 1)).float()


class Scripted:
    "A detector that returns what was written down beforehand: first for the clean image, then for each mask in turn."
    def __init__(self, seed=0, n=120, probs=False, objectness=False, most=6):
        rng = np.random.default_rng(seed)
        def one(k):
            o = dict(boxes=boxes(rng, k), labels=torch.from_numpy(rng.integers(0, CLASSES, k)), scores=torch.from_numpy(rng.random(k)).float())
            if probs: o["probs"] = torch.from_numpy(rng.dirichlet(np.ones(CLASSES)*.5, k)).float()
            if objectness: o["objectness"] = torch.from_numpy(rng.random(k)).float()
            return o
        self.clean, self.runs = one(3), [one(rng.integers(0, most)) for _ in range(n)]
        for r in self.runs: # some boxes are near the wanted ones
            for j in range(len(r["labels"])):
                if rng.random() < .6:
                    k = rng.integers(3); r["boxes"][j] = self.clean["boxes"][k] + torch.from_numpy(rng.normal(0, 1.5, 4)).float()
                    if rng.random() < .7: r["labels"][j] = self.clean["labels"][k]
        self.masks = torch.from_numpy(rng.random((n, *SIZE))).float(); self.i = -1
    def __call__(self, images):
        out = []
        for _ in images: out.append(self.clean if self.i < 0 else self.runs[self.i]); self.i += 1
        return out
    def explain(self, **kw): self.i = -1; return DRISE(self, masks=self.masks, batch_size=7, **kw).explain(torch.ones(3, *SIZE))


def slow_iou(a, b, extra=0.):
    w = min(a[2], b[2]) - max(a[0], b[0]) + extra; h = min(a[3], b[3]) - max(a[1], b[1]) + extra
    inter = max(w, 0)*max(h, 0)
    area = lambda o: (o[2] - o[0] + extra)*(o[3] - o[1] + extra)
    return inter/(area(a) + area(b) - inter)


def slow_similarity(o, j, t, k):
    "The paper's similarity of one found and one wanted box."
    s = slow_iou(o["boxes"][j].tolist(), t["boxes"][k].tolist())
    if "probs" in o:
        a, b = o["probs"][j].double().numpy(), t["probs"][k].double().numpy()
        s *= a @ b/np.sqrt((a @ a)*(b @ b))
        return s*(float(o["objectness"][j]) if "objectness" in o else 1)
    return s*float(o["labels"][j] == t["labels"][k])*float(o["objectness"][j] if "objectness" in o else o["scores"][j])


@pytest.mark.parametrize("probs,objectness", [(False, False), (True, False), (True, True), (False, True)])
def test_equals_a_slow_literal_version(probs, objectness):
    d = Scripted(1, probs=probs, objectness=objectness)
    n, p = len(d.masks), .4
    w = np.array([[max([slow_similarity(r, j, d.clean, k) for j in range(len(r["labels"]))], default=0.) for k in range(3)] for r in d.runs])
    assert (w > 0).any(0).all()
    m = d.masks.double().numpy()
    for estimator, want in (("classic", np.einsum("nk,nhw->khw", w, m)/(n*p)), ("centred", np.einsum("nk,nhw->khw", w - w.mean(0), m)/(n*p*(1 - p)))):
        got = d.explain(estimator=estimator, p=p)
        assert [a.meta["label"] for a in got] == d.clean["labels"].tolist() and [a.meta["output"] for a in got] == ["box"]*3
        for k in range(3):
            assert np.abs(got[k].values[0].numpy() - want[k]).max() < 1e-5*np.abs(want).max()
            assert abs(got[k].meta["found_in"] - (w[:, k] > 0).mean()) < 1e-6


def test_equals_xaitk_with_its_inclusive_boxes():
    needs("xaitk_saliency")
    from xaitk_saliency.impls.gen_detector_prop_sal.drise_scoring import DRISEScoring
    d = Scripted(2, probs=True, objectness=True)
    n, most = len(d.masks), max(len(r["labels"]) for r in d.runs)
    def vector(o, k): return np.concatenate([o["boxes"][k], [float(o["objectness"][k])], o["probs"][k]])
    found = np.zeros((n, most, 5 + CLASSES)); found[:, :, 5:] = 1e-3 # rows that pad have objectness 0
    for i, r in enumerate(d.runs):
        for k in range(len(r["labels"])): found[i, k] = vector(r, k)
    wanted = np.stack([vector(d.clean, k) for k in range(3)])
    want = DRISEScoring().generate(wanted, found, d.masks.numpy())
    one = torch.tensor([0., 0, 1, 1]) # its last pixel is inside the box, ours ends there
    for o in [d.clean, *d.runs]: o["boxes"] = o["boxes"] + one
    got = torch.cat([a.values for a in d.explain(estimator="classic")])*n*.5/d.masks.sum(0) # it divides by how often a pixel was shown
    got = got/got.flatten(1).abs().amax(1)[:, None, None]
    assert np.abs(got.numpy() - want).max() < 1e-5
    for o in [d.clean, *d.runs]: o["boxes"] = o["boxes"] - one
    pairs = detection_similarity(dict(d.runs[0], boxes=d.runs[0]["boxes"]), d.clean, pixel=1.)
    if len(pairs): assert np.abs(pairs.numpy() - DRISEScoring().iou(d.runs[0]["boxes"].numpy(), d.clean["boxes"].numpy())*_cos(d.runs[0], d.clean)*d.runs[0]["objectness"].numpy()[:, None]).max() < 1e-6


def _cos(a, b):
    from scipy.spatial.distance import cdist
    return 1 - cdist(a["probs"].numpy(), b["probs"].numpy(), "cosine")


def literal_datumaro(d, p, iou_thresh, nms_thresh, conf_thresh):
    "Datumaro 0.3.1 step by step: boxes, then labels in order of appearance."
    def nms(o):
        left, keep = sorted(range(len(o["scores"])), key=lambda k: float(o["scores"][k])), []
        while left:
            best = left.pop(); keep.append(best)
            left = [k for k in left if slow_iou(o["boxes"][best].tolist(), o["boxes"][k].tolist()) <= nms_thresh]
        return keep
    def select(o):
        keep = [k for k in range(len(o["scores"])) if conf_thresh <= 0 or conf_thresh <= float(o["scores"][k])]
        part = {k: v[keep] for k, v in o.items()}
        if nms_thresh > 0: part = {k: v[nms(part)] for k, v in part.items()}
        return part
    wanted = select(d.clean)
    labels = list(dict.fromkeys(wanted["labels"].tolist())); nb = len(wanted["labels"])
    heat, counts = np.zeros((nb + len(labels), *SIZE), np.float32), np.zeros(nb + len(labels), np.int32)
    for r, mask in zip(d.runs, d.masks.numpy()):
        confs = np.zeros(nb + len(labels), np.float32)
        for l, s in zip(r["labels"].tolist(), r["scores"].tolist()):
            if l in labels: confs[nb + labels.index(l)] += s; counts[nb + labels.index(l)] += 1
        kept = select(r)
        for b, l, s in zip(kept["boxes"].tolist(), kept["labels"].tolist(), kept["scores"].tolist()):
            for k in range(nb):
                if l == int(wanted["labels"][k]) and slow_iou(b, wanted["boxes"][k].tolist()) >= iou_thresh: confs[k] += s; counts[k] += 1
        heat += confs[:, None, None]*mask
    eps = np.finfo(np.float32).eps
    flat = heat.reshape(len(heat), -1)
    flat = flat/(counts*p + eps)[:, None].astype(np.float32)
    flat = flat - flat.min(1, keepdims=True); flat = flat/(flat.max(1, keepdims=True) + eps)
    return flat.reshape(heat.shape), counts, wanted, labels


@pytest.mark.parametrize("iou,nms,conf", [(.5, 0., 0.), (.9, 0., 0.), (.3, .4, .25)])
def test_datumaro_mode_equals_its_formula(iou, nms, conf):
    d = Scripted(3, n=200)
    want, counts, wanted, labels = literal_datumaro(d, .3, iou, nms, conf)
    got = d.explain(mode="datumaro", p=.3, iou_thresh=iou, nms_thresh=nms, conf_thresh=conf)
    assert [a.meta["output"] for a in got] == ["box"]*len(wanted["labels"]) + ["label"]*len(labels) and len(got) == len(want)
    assert sorted(a.meta["label"] for a in got if a.meta["output"] == "label") == sorted(labels)
    rows = [wanted["boxes"].tolist().index(a.meta["box"]) if a.meta["box"] else len(wanted["labels"]) + labels.index(a.meta["label"]) for a in got]
    for a, r in zip(got, rows): assert np.abs(a.values[0].numpy() - want[r]).max() < 1e-5, (a, counts[r])


def test_datumaro_mode_equals_its_formula_on_few_masks_of_0_and_1():
    d = Scripted(4, n=16, most=9); d.masks = (d.masks < .4).float()
    want, counts, wanted, labels = literal_datumaro(d, .4, .5, 0., 0.)
    got = d.explain(mode="datumaro", p=.4)
    assert (counts > 0).sum() >= 4
    for a, w in zip(got, want): assert np.abs(a.values[0].numpy() - w).max() < 1e-5


def four_corners(images):
    "Datumaro's own example: a box in each corner, whose score is how much of it is seen."
    out = []
    for im in images:
        h, w = im.shape[1:]
        b = torch.tensor([[0, 0, w/2, h/2], [w/2, 0, w, h/2], [0, h/2, w/2, h], [w/2, h/2, w, h]])
        out.append(dict(boxes=b, labels=torch.tensor([0, 1, 2, 2]), scores=torch.stack([im[:, int(y):int(v), int(x):int(u)].mean() for x, y, u, v in b.tolist()])))
    return out


@pytest.mark.parametrize("mode", ["drise", "datumaro"])
def test_four_regions(mode):
    got = DRISE(four_corners, n_masks=600, cell=7, mode=mode).explain(torch.ones(3, 50, 70))
    assert len(got) == (4 if mode == "drise" else 7)
    for a in got[:4]:
        x, y, r, b = (int(o) for o in a.meta["box"])
        inside = torch.zeros(50, 70, dtype=torch.bool); inside[y:b, x:r] = True
        v = a.values[0]
        assert v[inside].mean() > v[~inside].mean() + .5*v.std()
    if mode == "datumaro":
        v = got[6].values[0] # the label of both lower corners
        assert v[25:].mean() > v[:25].mean() + .3


def test_points_at_digits_and_a_centre_does_not():
    from interp_kit.demo import demo_detector, digit_scenes
    images, truth = digit_scenes(4, 21, held_out=True)
    found = DRISE(demo_detector(), n_masks=400, cell=8, conf_thresh=.5).explain(images)
    assert len(found) >= 8
    hit = centre = 0
    for a in found:
        x, y, r, b = a.meta["box"]
        row, col = divmod(int(a.values[0].flatten().argmax()), a.values.shape[2])
        hit += x <= col + .5 <= r and y <= row + .5 <= b
        centre += x <= 32 <= r and y <= 32 <= b
        assert a.labels == [str(a.meta["label"])] and a.meta["score"] >= .5 and torch.equal(a.inputs[0], images[a.meta["image"]])
    assert hit >= .8*len(found) and hit >= centre + .5*len(found), (hit, centre, len(found))


def test_faces_of_mtcnn():
    needs("facenet_pytorch", "skimage")
    import skimage
    from PIL import Image
    from facenet_pytorch import MTCNN
    net = MTCNN(keep_all=True, thresholds=[.5, .5, .5], min_face_size=40)
    def faces(images):
        out = []
        for im in images:
            b, p = net.detect(Image.fromarray((im.permute(1, 2, 0).clamp(0, 1)*255).byte().numpy()))
            b = np.zeros((0, 4)) if b is None else b.astype(float)
            out.append(dict(boxes=torch.tensor(b).float(), labels=torch.zeros(len(b), dtype=torch.long), scores=torch.tensor([o for o in p if o is not None]).float()))
        return out
    for name in ("astronaut", "camera"):
        im = Image.open(Path(skimage.__file__).parent/"data"/f"{name}.png").convert("RGB").resize((192, 192))
        x = torch.from_numpy(np.asarray(im)/255).permute(2, 0, 1).float()
        best = max(faces([x])[0]["scores"].tolist())
        got = DRISE(faces, n_masks=120, cell=8, p=.6, conf_thresh=best).explain(x)
        assert len(got) == 1
        a, (l, t, r, b) = got[0], got[0].meta["box"]
        row, col = divmod(int(a.values[0].flatten().argmax()), 192)
        m = .35*(r - l) # hiding is coarse: cells of 24 pixels
        assert l - m <= col <= r + m and t - m <= row <= b + m, (name, a.meta["box"], row, col, a.meta["found_in"])
        inside = torch.zeros(192, 192, dtype=torch.bool); inside[int(max(t, 0)):int(b), int(max(l, 0)):int(r)] = True
        assert a.values[0][inside].mean() > 3*a.values[0][~inside].abs().mean()


class Net(nn.Module):
    "A detector with state: one box where the image is bright."
    def __init__(self): super().__init__(); self.bn = nn.BatchNorm2d(3)
    def forward(self, images):
        if self.training: raise ValueError("In training mode, targets should be passed")
        out = []
        for im in images:
            z = self.bn(im[None])[0].mean(0); on = (z > .4).nonzero()
            b = torch.cat([on.amin(0).flip(0), on.amax(0).flip(0) + 1])[None].float() if len(on) else torch.zeros(0, 4)
            out.append(dict(boxes=b, labels=torch.zeros(len(b), dtype=torch.long), scores=z.max().expand(len(b)).clamp(0, 1)))
        return out


def spot(): x = torch.zeros(3, 32, 32); x[:, 6:14, 18:26] = 1; return x


def test_the_detector_is_untouched():
    net = Net().train()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    a, = DRISE(net, n_masks=60, cell=4).explain(spot())
    assert net.training and all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert a.values[0, 6:14, 18:26].mean() > 3*a.values[0, 20:, :12].abs().mean() and a.meta["box"] == [18, 6, 26, 14]
    with torch.inference_mode(): assert torch.equal(DRISE(net, n_masks=60, cell=4).explain(spot())[0].values, a.values)


def test_given_detections_and_cells_and_progress():
    told = []
    d = DRISE(Net(), n_masks=120, mask_width=8, mask_height=4, batch_size=50, progress=lambda i, n: told.append((i, n)))
    a, b = d.explain(spot(), dict(boxes=[[18, 6, 26, 14], [0, 0, 9, 9]], labels=[0, 0]))
    assert a.meta["cells"] == [4, 8] and told[-1] == (120, 120) and a.scores is None
    assert a.values.shape == (1, 32, 32) and a.meta["n_masks"] == 120 and len(a.meta["stderr"]) == 1
    import json
    json.dumps(a.to_dict(), allow_nan=False)


def test_a_box_never_found_says_so():
    with pytest.warns(UserWarning, match="never found again.*larger p"): a, b = DRISE(Net(), n_masks=50, cell=4).explain(spot(), dict(boxes=[[18, 6, 26, 14], [0, 20, 4, 24]], labels=[0, 0]))
    assert (b.values == 0).all() and b.meta["found_in"] == 0 and a.meta["found_in"] > .3
    with pytest.warns(UserWarning, match="finds nothing to explain in 1 of 1"): assert DRISE(Net(), n_masks=5, cell=4).explain(torch.zeros(3, 32, 32)) == []
    with pytest.warns(UserWarning, match="1 of 2 images"): assert [o.meta["image"] for o in DRISE(Net(), n_masks=20, cell=4).explain(torch.stack([torch.zeros(3, 32, 32), spot()]))] == [1]


@pytest.mark.parametrize("make,error,says", [
    (lambda: DRISE(Net(), mode="rise"), DataError, "'drise' or 'datumaro'"), (lambda: DRISE(Net(), conf_thresh=2), DataError, "conf_thresh is 2"), (lambda: DRISE(Net(), n_masks=0), DataError, "at least one mask"),
    (lambda: DRISE(Net(), cell=33).explain(spot()), DataError, "33 cells"), (lambda: DRISE(7).explain(spot()), TaskError, "detector or a function"), (lambda: DRISE(lambda ims: [1]*len(ims)).explain(spot()), ModelError, "no boxes"),
    (lambda: DRISE(lambda ims: torch.ones(2)).explain(spot()), ModelError, "Tensor for 1 images"), (lambda: DRISE(lambda ims: [dict(boxes=torch.ones(2, 4), labels=torch.ones(1), scores=torch.ones(2))]).explain(spot()), ModelError, "do not fit together"),
    (lambda: DRISE(lambda ims: [dict(boxes=torch.ones(1, 4)*torch.nan, labels=torch.ones(1), scores=torch.ones(1))]).explain(spot()), ModelError, "NaN"), (lambda: DRISE(lambda ims: 1/0).explain(spot()), ModelError, "ZeroDivisionError"),
    (lambda: DRISE(Net()).explain(torch.rand(32, 32)), DataError, "an image"), (lambda: DRISE(Net()).explain(spot(), dict(labels=[1])), DataError, "no boxes")])
def test_errors(make, error, says):
    with pytest.raises(error, match=says): make()


def test_steps_leave_the_detector_alone_in_between():
    net = Net().train()
    steps = DRISE(net, n_masks=50, cell=4).iter_explain(spot(), every=20)
    parts = []
    for o in steps: parts.append(o[0]); assert net.training
    assert [a.meta["n_masks"] for a in parts] == [20, 40, 50] and torch.equal(parts[-1].values, DRISE(net, n_masks=50, cell=4).explain(spot())[0].values)
    with pytest.raises(DataError, match="every is 0"): next(DRISE(net, n_masks=50, cell=4).iter_explain(spot(), every=0))
