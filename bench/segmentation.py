"Counting and scoring masks: 32 classes x 24 million pixels, one thread, against torch, scikit-learn and torchmetrics."
import time
import numpy as np, torch
import sklearn.metrics as skm
from bench.measure import paired
from interp_kit.predictions import Predictions, confusion_counts
from interp_kit.predictions.metrics.segmentation import boundary_iou, pixel_confusion, segmentation_metrics
from interp_kit.predictions.masks import _image_counts as image_counts, _image_mass as image_mass, counts_of

C, SHAPE = 32, (92, 512, 512)


def _masks(dtype, void, seed=0):
    "Areas of 16 x 16 pixels and noise; where `void`, one pixel in ten does not count."
    g = torch.Generator().manual_seed(seed)
    t = torch.randint(0, C, (SHAPE[0], 32, 32), generator=g).repeat_interleave(16, 1).repeat_interleave(16, 2)
    d = torch.where(torch.rand(SHAPE, generator=g) < .8, t, torch.randint(0, C, SHAPE, generator=g))
    if void: t = t.masked_fill(torch.rand(SHAPE, generator=g) < .1, 255)
    return t.to(dtype), d.to(dtype)


def _kept(t, d, ignore): return Predictions(None, t, torch.zeros(len(t)), d, task="segmentation", meta=dict(n_classes=C, **({} if ignore is None else dict(ignore_index=ignore))))


def _torch_once(t, d): return torch.bincount(t.flatten().long()*C + d.flatten().long(), minlength=C*C)


def _peak(f):
    "MiB of anonymous memory that `f` adds at its peak (sampled)."
    import threading
    read = lambda: int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1])/1024
    start, seen, done = read(), [0.], threading.Event()
    def watch():
        while not done.is_set(): seen.append(read()); time.sleep(.002)
    w = threading.Thread(target=watch); w.start(); f(); done.set(); w.join()
    return max(seen) - start


def run():
    torch.set_num_threads(1)
    res, pixels = [], int(np.prod(SHAPE))
    for dtype in (torch.uint8, torch.int16, torch.int64):
        for ignore in (None, 255):
            t, d = _masks(dtype, ignore is not None); p = _kept(t, d, ignore)
            assert int(pixel_confusion(p).sum()) == (pixels if ignore is None else int((t != 255).sum()))
            name = f"{str(dtype)[6:]}{', ignore_index=255' if ignore else ''}"
            r = paired(lambda: pixel_confusion(p), lambda: _torch_once(t if ignore is None else t.masked_fill(t == 255, 0), d), n=15)
            res.append(dict(what=f"pixel_confusion of {C} classes x {pixels:,} pixels, {name}, against one torch.bincount", **r, peak_mib=_peak(lambda: pixel_confusion(p))))
    t, d = _masks(torch.uint8, True); few = (t[:8], d[:8])
    keep = few[0] != 255
    res.append(dict(what="8 images of 512 x 512, against sklearn.confusion_matrix", **paired(lambda: confusion_counts(*few, C, 255), lambda: skm.confusion_matrix(few[0][keep].numpy(), few[1][keep].numpy(), labels=range(C)), n=5)))
    from torchmetrics.functional.classification import multiclass_confusion_matrix
    res.append(dict(what="8 images of 512 x 512, against torchmetrics", **paired(lambda: confusion_counts(*few, C, 255), lambda: multiclass_confusion_matrix(few[1].long(), few[0].long(), C, ignore_index=255), n=15)))
    once = lambda f: paired(f, lambda: None, n=5)["ours_s"]
    res.append(dict(what="counts of each of 92 images", ours_s=once(lambda: image_counts(t, d, C, 255))))
    p = _kept(t, d, 255); counts_of(p)
    res.append(dict(what="segmentation_metrics from kept counts", ours_s=once(lambda: segmentation_metrics(p))))
    res.append(dict(what="boundary_iou of 92 images (2 % of the diagonal: 14 pixels)", ours_s=once(lambda: boundary_iou(p)), peak_mib=_peak(lambda: boundary_iou(p))))
    q = torch.rand(4, C, 256, 256).softmax(1); small = (t[:4, :256, :256], q.argmax(1))
    r = paired(lambda: image_mass(q, *small, 255), lambda: q.softmax(1), n=15)
    res.append(dict(what="image_mass of a batch of 4 x 32 x 256 x 256, against its softmax", **r))
    return res
