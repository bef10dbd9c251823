"Segmentation from fastai's blocks and from plain torch: one pass, right pixels, drawn whatever the images are."
import warnings
from functools import partial
import numpy as np, pytest, torch
import torch.nn.functional as F
from fastai.losses import CrossEntropyLossFlat
from torch import nn
from interp_kit.core import as_learner
from interp_kit.interpret import SegmentationInterpretation, interpret
from interp_kit.interpret.verbs import plot_predictions, plot_top_losses, show_results

CODES = ["ground", "Füße $x_1$", "a name that goes on and on, far longer than a legend would like", "猫"]


def masks(n, H, W, seed=0):
    r = np.random.default_rng(seed); yy, xx = np.mgrid[:H, :W]; t = np.zeros((n, H, W), dtype=np.uint8)
    for m in t:
        for _ in range(3): y, x, s, c = int(r.integers(0, H)), int(r.integers(0, W)), int(r.integers(3, 9)), int(r.integers(1, 4)); m[(yy - y)**2 + (xx - x)**2 < s*s] = c
    t[:, :2] = 255
    return t


def pictures(t, channels, seed=0):
    "Images whose channels say the class, with noise."
    r = np.random.default_rng(seed); tone = r.random((4, channels))
    return (tone[t % 4].transpose(0, 3, 1, 2) + .1*r.normal(size=(len(t), channels, *t.shape[1:]))).astype(np.float32)


def headlines(axs): return [t.get_text() for a in axs[0, 0].figure.axes for t in a.texts]


@pytest.fixture(scope="module")
def fastai_learner(tmp_path_factory):
    "Files, codes, random flips in training, a few conv layers trained for an epoch."
    from PIL import Image
    from fastai.vision.all import DataBlock, FuncSplitter, ImageBlock, Learner, MaskBlock, CrossEntropyLossFlat, aug_transforms, get_image_files
    root = tmp_path_factory.mktemp("scenes"); (root/"images").mkdir(); (root/"masks").mkdir()
    t = masks(36, 30, 44); x = pictures(t, 3)
    for i, (a, b) in enumerate(zip(x, t)):
        Image.fromarray((a.transpose(1, 2, 0).clip(0, 1)*255).astype(np.uint8)).save(root/"images"/f"scene {i:02d}.png"); Image.fromarray(b).save(root/"masks"/f"scene {i:02d}.png")
    block = DataBlock((ImageBlock, MaskBlock(CODES)), get_items=get_image_files, get_y=lambda f: root/"masks"/f.name, splitter=FuncSplitter(lambda f: int(f.stem[-2:]) >= 16),
                      batch_tfms=aug_transforms(size=(30, 44)))
    torch.manual_seed(0)
    dls = block.dataloaders(root/"images", bs=4, num_workers=0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    learn = Learner(dls, net, loss_func=CrossEntropyLossFlat(axis=1, ignore_index=255))
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 2e-2)
    return learn, root


def by_hand(learn, root):
    "(probabilities, masks) of the validation files, read and run without any of our code."
    from PIL import Image
    files = [learn.dls.valid.items[i] for i in range(len(learn.dls.valid.items))]
    y = torch.from_numpy(np.stack([np.array(Image.open(root/"masks"/f.name)) for f in files])).long()
    preds, targs = learn.get_preds(ds_idx=1)
    assert torch.equal(torch.as_tensor(targs), y)
    return torch.as_tensor(preds), y, files


@pytest.mark.parametrize("on_disk", [False, True])
def test_fastai_learner_one_pass_and_right_pixels(fastai_learner, count_rows, tmp_path, on_disk):
    learn, root = fastai_learner; q, y, files = by_hand(learn, root)
    seen = count_rows(learn)
    with learn.no_bar():
        interp = interpret(learn, progress=False, **(dict(path=tmp_path/"kept") if on_disk else {}))
    assert type(interp) is SegmentationInterpretation and interp.predictions.has_preds == (not on_disk)
    d, keep = q.argmax(1), y != 255
    cm = interp.confusion_matrix(); assert cm.dtype == torch.int64 and torch.equal(cm, torch.bincount(y[keep]*4 + d[keep], minlength=16).view(4, 4))
    iou = [float(((y == c) & (d == c)).sum()/(((y == c) | (d == c)) & keep).sum()) for c in range(4)]
    np.testing.assert_allclose(interp.intersection_over_union()["iou"].to_numpy(float), [*iou, np.mean(iou)], atol=1e-6)
    assert list(interp.intersection_over_union().index) == [*CODES, "mean"]
    m = interp.metrics(ci=True); assert (m.low <= m.value).all() and (m.value <= m.high).all() and "mean_confidence" in m.index
    loss = F.nll_loss(q.clamp_min(1e-30).log(), y, ignore_index=255, reduction="none"); each = loss.sum((1, 2))/keep.sum((1, 2))
    np.testing.assert_allclose(m.value["loss"], each.mean(), rtol=1e-4)
    losses, rows, items = interp.top_losses(3, items=True); assert torch.equal(rows, each.argsort(descending=True)[:3]) and list(items) == [files[i] for i in rows]
    axs = interp.plot_top_losses(3, figsize=(9, 9)); assert axs.shape == (3, 4)
    axs[0, 0].figure.savefig(tmp_path/"worst.png")
    title = headlines(axs)[0]; assert title.startswith(files[rows[0]].name) and "loss" in title and "IoU" in title and "pixels right" in title
    frame, table = interp.to_frame(), interp.per_image_iou()
    assert len(frame) == len(table) == len(files) and table["item"][0] == files[0].name and list(table.columns) == ["row", "item", "mean", *CODES]
    np.testing.assert_allclose(frame["pixel_accuracy"], [float((a == b)[k].float().mean()) for a, b, k in zip(y, d, keep)], atol=1e-6)
    assert list(interp.per_class_accuracy().columns) == ["support", "accuracy", "precision", "images"] and len(interp.boundary_iou()) == len(interp.dice()) == 5
    interp.plot_iou(); interp.plot_confusion_matrix(normalize=True); interp.findings(); interp.show_results([4, 0]); interp.most_confused()
    x, p, t, dec, l = interp[[5, 2]]; assert (p is None) == on_disk and torch.equal(torch.as_tensor(t).long(), y[[5, 2]]) and torch.allclose(l, each[[5, 2]].float(), atol=1e-4)
    assert sum(seen) == len(files)


def test_the_picture_shows_the_right_image_mask_and_prediction(fastai_learner):
    from PIL import Image
    from interp_kit.plots import class_colors
    learn, root = fastai_learner; q, y, files = by_hand(learn, root)
    with learn.no_bar(): interp = SegmentationInterpretation.from_learner(learn)
    axs = interp.show_results([6, 1])
    for line, i in zip(axs, (6, 1)):
        image, target, said, error = (a.images[0].get_array() for a in line)
        np.testing.assert_allclose(image, np.array(Image.open(files[i]))/255, atol=.02)
        colors, keep = np.round(class_colors(4)*255), (y[i] != 255).numpy()
        assert (target[keep][:, :3] == colors[y[i].numpy()[keep]]).all() and (target[~keep][:, 3] == 0).all()
        assert (said[..., :3] == colors[q[i].argmax(0).numpy()]).all()
        wrong = keep & (q[i].argmax(0) != y[i]).numpy(); assert (error[wrong][:, :3] == colors[y[i].numpy()[wrong]]).all() and (error[keep & ~wrong][:, :3] == 217).all()


def test_fastai_verbs(fastai_learner):
    learn, _ = fastai_learner
    with learn.no_bar():
        assert show_results(learn, max_n=2).shape == (2, 4) and plot_predictions(learn, max_n=3).shape == (3, 4)
        interp = learn.interpret(progress=False)
    assert plot_top_losses(interp, 2, by="iou").shape == (2, 4)


@pytest.mark.parametrize("channels,H,W", [(1, 20, 33), (2, 33, 20), (3, 24, 24), (4, 16, 40), (7, 24, 12)])
def test_plain_torch_of_any_channels_and_shape(channels, H, W, count_rows):
    t = masks(10, H, W, 1); t[3] = 255; x = torch.from_numpy(pictures(t, channels)); y = torch.from_numpy(t).long()
    torch.manual_seed(0); net = nn.Conv2d(channels, 4, 3, padding=1)
    learn = as_learner(net, torch.utils.data.DataLoader(list(zip(x, y)), batch_size=4, shuffle=True), nn.CrossEntropyLoss(ignore_index=255), vocab=CODES)
    seen = count_rows(learn)
    with learn.no_bar(): interp = SegmentationInterpretation.from_learner(learn)
    d, keep = net(x).argmax(1), y != 255
    assert torch.equal(interp.confusion_matrix(), torch.bincount(y[keep]*4 + d[keep], minlength=16).view(4, 4))
    assert torch.isnan(interp.losses[3]) and interp.predictions.ignore_index == 255
    with warnings.catch_warnings(): warnings.simplefilter("ignore"); assert int(interp.top_losses()[1][-1]) == 3; axs = interp.plot_top_losses(10)
    assert axs.shape == (10, 4) and axs[0, 0].images[0].get_array().shape[:2] == (H, W)
    axs[0, 0].figure.canvas.draw()
    assert "no labelled pixel" in headlines(axs)[9] and sum(seen) == len(x) + len(x)  # one pass, and the line above


def test_one_output_means_two_classes():
    t = (masks(6, 16, 16) % 4 > 0).astype(np.float32); x = torch.from_numpy(pictures(t.astype(np.uint8), 3)); y = torch.from_numpy(t)[:, None]
    net = nn.Conv2d(3, 1, 1); learn = as_learner(net, torch.utils.data.DataLoader(list(zip(x, y)), batch_size=4), nn.BCEWithLogitsLoss(), task="segmentation")
    with learn.no_bar(): interp = SegmentationInterpretation.from_learner(learn)
    d = (net(x) > 0).long()[:, 0]; yy = y[:, 0].long(); assert torch.equal(interp.confusion_matrix(), torch.bincount((yy*2 + d).flatten(), minlength=4).view(2, 2))
    assert interp.plot_top_losses(2).shape == (2, 4)


LOSSES = dict(partial=partial(F.cross_entropy, ignore_index=255), wrapped=CrossEntropyLossFlat(axis=1, ignore_index=255))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_void_pixels_of_fastais_own_arguments(loss):
    "Made as fastai makes its own: what the loss leaves out is read from the loss that acts, not from a wrapper's copy."
    if hasattr(loss, "func") and isinstance(loss.func, nn.Module): loss.ignore_index = 1
    y = torch.from_numpy(masks(3, 12, 12)).long()
    x = torch.from_numpy(pictures(y.numpy(), 3))
    torch.manual_seed(0)
    net = nn.Conv2d(3, 4, 1)
    dl = torch.utils.data.DataLoader(list(zip(x, y)), batch_size=3)
    learn = as_learner(net, dl, loss, vocab=CODES)
    preds = net(x).softmax(1).detach()
    interp = SegmentationInterpretation(dl, None, preds, y, preds.argmax(1), torch.zeros(3), learn=learn)
    assert interp.predictions.ignore_index == 255
    assert int(interp.confusion_matrix().sum()) == int((y != 255).sum())
