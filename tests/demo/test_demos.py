"The demos: good but not perfect, the same each time, made whole or not at all, and no trace of making them."
import os, random, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest, torch
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, r2_score
from fastai.callback.core import Callback
from interp_kit.demo import demo_detector, demo_learner, digit_folder, digit_scenes
from interp_kit.demo.pictures import _collage_folder, _scene_folder, _turned_folder
from interp_kit.demo.cache import _cache_dir, _fits, _once, _one_thread, _trained_once
from interp_kit.predictions.capture import capture

ROOT = Path(__file__).parents[2]
NEW = ["multilabel", "segmentation", "regression", "tabular_regression"]
OLD = ["classification", "tabular", "text"]


def states():
    np_state = np.random.get_state()
    return random.getstate(), np_state[1].tolist(), np_state[2:], torch.get_rng_state().tolist(), torch.get_num_threads()


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    "A cache of its own, that has the pictures but no weights."
    pictures = [f() for f in (digit_folder, _collage_folder, _scene_folder, _turned_folder)]
    for p in pictures: (tmp_path/p.name).symlink_to(p)
    monkeypatch.setenv("INTERP_KIT_CACHE", str(tmp_path))
    return tmp_path


def weights(): return sorted(f.name for f in _cache_dir().iterdir() if f.suffix == ".pth" or f.name.startswith("."))


# How good they are

def test_multilabel_is_good_but_not_perfect():
    preds, targs = demo_learner("multilabel").get_preds()
    each = average_precision_score(targs, preds, average=None)
    assert preds.shape == targs.shape == (300, 10) and .78 < each.mean() < .97 and each.min() < .95
    assert .6 < f1_score(targs, preds > .5, average="macro") < .95


def test_segmentation_is_good_but_not_perfect():
    learn = demo_learner("segmentation"); preds, targs = learn.get_preds()
    assert preds.shape == (300, 11, 48, 48) and learn.dls.vocab == ["background", *"0123456789"]
    iou = jaccard_score(targs.flatten(), preds.argmax(1).flatten(), average=None)
    assert iou[0] > .95 and .58 < iou[1:].mean() < .92


def test_regression_is_good_but_not_perfect():
    learn = demo_learner("regression"); preds, targs = learn.get_preds()
    assert .9 < r2_score(targs, preds) < .995 and (preds.flatten() - targs).abs().max() > 10
    frame = learn.dls.valid_ds.items
    assert np.allclose(frame.angle, targs) and set(frame.digit) == set(range(10))


def test_tabular_regression_explains_what_linear_regression_does():
    from sklearn.linear_model import LinearRegression
    learn = demo_learner("tabular_regression"); preds, targs = learn.get_preds()
    columns = ["age", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6", "sex"]
    train, valid = (dl.items for dl in learn.dls)
    linear = LinearRegression().fit(train[columns], train.progression)
    assert np.allclose(valid.progression, targs[:, 0]) and learn.dls.cat_names == ["sex"]
    assert r2_score(targs, preds) > linear.score(valid[columns], valid.progression) - .1 > .2


def test_no_digit_of_validation_is_one_of_training():
    from interp_kit.demo.pictures import _scans
    train, valid = ({s.tobytes() for s in _scans(held_out)[0]} for held_out in (False, True))
    assert len(train & valid) == 0 and len(_scans(False)[0]) + len(_scans(True)[0]) == 1797


def test_pictures_are_what_the_files_say():
    from PIL import Image
    import pandas as pd
    df = pd.read_csv(_collage_folder()/"labels.csv", dtype={"labels": str}).query("is_valid").reset_index()
    images, targets = digit_scenes(300, 1, size=48, grid=True, held_out=True)
    for i in (0, 7, 299):
        assert set(df.labels[i].split()) == {str(int(l)) for l in targets[i]["labels"]}
        assert np.abs(np.asarray(Image.open(_collage_folder()/df.file[i])).transpose(2, 0, 1)/255 - images[i].numpy()).max() <= 1/255
    for t in targets: # each in its own cell
        middles = (t["boxes"][:, :2] + t["boxes"][:, 2:])/2
        cells = [(int(x >= 24), int(y >= 24)) for x, y in middles.tolist()]
        assert len(set(cells)) == len(cells) and ((t["boxes"][:, :2]//24) == ((t["boxes"][:, 2:] - 1)//24)).all()


def test_the_angle_of_a_turned_digit_is_counter_clockwise():
    from interp_kit.demo.pictures import _turned
    bar = np.zeros((8, 8), np.uint8); bar[1:7, 3:5] = 255
    im = _turned(bar, 30)[0]
    ys, xs = torch.meshgrid(torch.arange(32.) - 15.5, torch.arange(32.) - 15.5, indexing="ij")
    slope = torch.atan2(-(im*(ys - (im*ys).sum()/im.sum())*(xs - (im*xs).sum()/im.sum())).sum(), (im*(ys - (im*ys).sum()/im.sum())**2).sum())
    assert slope < 0 # upright leans left: to the top, x falls
    x, y = (im*xs*(ys < 0)).sum()/(im*(ys < 0)).sum(), (im*ys*(ys < 0)).sum()/(im*(ys < 0)).sum()
    assert abs(np.degrees(np.arctan2(-float(x), -float(y))) - 30) < 3


# The same each time, and no trace

@pytest.mark.parametrize("task", NEW)
def test_training_again_gives_equal_weights_on_any_number_of_threads(task, tmp_path, monkeypatch):
    "Both are trained here: weights that were kept earlier may be those of another processor."
    threads, made = torch.get_num_threads(), []
    for n in (1, 2):
        monkeypatch.setenv("INTERP_KIT_CACHE", str(tmp_path/str(n)))
        random.seed(7 + n)
        np.random.seed(8 + n)
        torch.manual_seed(9 + n)
        torch.set_num_threads(n)
        try:
            before = states()
            made.append(demo_learner(task).model.state_dict())
            assert states() == before
        finally: torch.set_num_threads(threads)
    assert all(torch.equal(made[0][k], made[1][k]) for k in made[0])


@pytest.mark.parametrize("task", ["tabular", "text"])
def test_training_twice_gives_equal_weights(task, empty_cache):
    runs = []
    for _ in range(2):
        random.seed(len(runs)); np.random.seed(len(runs)); torch.manual_seed(len(runs))
        before = states(); runs.append(demo_learner(task).model.state_dict()); assert states() == before
        for f in _cache_dir().glob("*.pth"): f.unlink()
    assert all(torch.equal(runs[0][k], runs[1][k]) for k in runs[0])


def test_the_detector_again_gives_equal_weights(empty_cache):
    made = []
    for seed in (3, 4):
        torch.manual_seed(seed)
        before = states()
        made.append(demo_detector().state_dict())
        assert states() == before
        for f in empty_cache.glob("*.pth"): f.unlink()
    assert all(torch.equal(made[0][k], made[1][k]) for k in made[0])


def test_pictures_again_are_equal_files(tmp_path, monkeypatch):
    makers = (_collage_folder, _scene_folder, _turned_folder)
    first = [f() for f in makers]
    monkeypatch.setenv("INTERP_KIT_CACHE", str(tmp_path))
    before = states(); again = [f() for f in makers]; assert states() == before
    for a, b in zip(first, again):
        files = sorted(f.relative_to(a) for f in a.rglob("*") if f.is_file())
        assert files == sorted(f.relative_to(b) for f in b.rglob("*") if f.is_file()) and len(files) > 900
        assert all((a/f).read_bytes() == (b/f).read_bytes() for f in files)


# Whole or not at all

class Stop(Callback):
    def after_batch(self):
        if self.training and self.learn.epoch == 1: raise KeyboardInterrupt


@pytest.mark.parametrize("task", ["tabular_regression", "tabular", "regression"])
def test_an_interrupted_training_leaves_nothing(task, empty_cache):
    before = states()
    with pytest.raises(KeyboardInterrupt): demo_learner(task, cbs=[Stop()])
    assert weights() == [] and states() == before
    if task != "regression": assert demo_learner(task).model.training is False and len(weights()) == 1


def test_interrupted_pictures_leave_nothing(tmp_path, monkeypatch):
    from PIL import Image
    monkeypatch.setenv("INTERP_KIT_CACHE", str(tmp_path)); saved, save = [], Image.Image.save
    def stop(self, file, *args, **kwargs):
        if len(saved) == 20: raise KeyboardInterrupt
        saved.append(file); save(self, file, *args, **kwargs)
    monkeypatch.setattr(Image.Image, "save", stop)
    for make in (digit_folder, _collage_folder, _scene_folder, _turned_folder):
        saved.clear()
        with pytest.raises(KeyboardInterrupt): make()
        assert len(saved) == 20 and list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_nothing_that_counts(tmp_path):
    code = "from interp_kit.demo.pictures import _turned_folder\nfrom PIL import Image\nimport time\nsave = Image.Image.save\ndef slow(*a, **k): print('one', flush=True); save(*a, **k); time.sleep(.01)\nImage.Image.save = slow\n_turned_folder()"
    p = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ, INTERP_KIT_CACHE=str(tmp_path)), stdout=subprocess.PIPE)
    for _ in range(5): p.stdout.readline()
    p.send_signal(signal.SIGKILL); p.wait(); p.stdout.close()
    left = list(tmp_path.iterdir())
    assert len(left) == 1 and left[0].name.startswith(".part-")
    os.utime(left[0], (time.time() - 1e6,)*2)
    code = "from interp_kit.demo.pictures import _turned_folder; print(len(list(_turned_folder().glob('*.png'))))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ, INTERP_KIT_CACHE=str(tmp_path)), capture_output=True, text=True)
    assert out.stdout.strip() == "1797" and [f.name for f in tmp_path.iterdir()] == ["turned-digits-1"], out.stderr


def test_two_processes_at_once_do_not_break_each_other(tmp_path):
    code = ("from interp_kit.demo import demo_learner\nfrom interp_kit.demo.pictures import _collage_folder\nfrom interp_kit.demo.cache import _once\nimport sys, time\n"
            "m = demo_learner('tabular_regression').model; n = len(list(_collage_folder().glob('*.png')))\n"
            "def slow(path): path.mkdir(); (path/'a').write_text('x'); time.sleep(1); (path/'b').write_text('y')\n"
            "print(n, float(sum(p.double().abs().sum() for p in m.parameters())), sorted(f.name for f in _once('slow-1', slow).iterdir()))")
    run = lambda: subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, env=dict(os.environ, INTERP_KIT_CACHE=str(tmp_path)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    procs = [run() for _ in range(3)]; outs = [p.communicate() for p in procs]
    assert [p.returncode for p in procs] == [0, 0, 0], outs
    assert len({o for o, _ in outs}) == 1 and outs[0][0].startswith("1000 ") and outs[0][0].endswith("['a', 'b']\n")
    assert sorted(f.name.split("-torch")[0] for f in tmp_path.iterdir()) == ["digit-collages-1", "slow-1", "tabular_regression-1"]


def test_both_may_finish(tmp_path, monkeypatch):
    "The slower of two finds the work done, of a folder and of a file; neither fails."
    monkeypatch.setenv("INTERP_KIT_CACHE", str(tmp_path))
    def folder(path):
        path.mkdir(); (path/"x").write_text("mine")
        if not (tmp_path/"f-1").exists(): (tmp_path/"f-1").mkdir(); (tmp_path/"f-1"/"x").write_text("theirs")
    assert (_once("f-1", folder)/"x").read_text() == "theirs"
    net = torch.nn.Linear(1, 1)
    def train():
        torch.save({k: torch.full_like(v, 5) for k, v in net.state_dict().items()}, tmp_path/f"net-1-torch{torch.__version__.split('+')[0]}.pth")
        net.weight.data.fill_(6)
    assert _trained_once(net, "net-1", train)["weight"].item() == 6 and len(list(tmp_path.iterdir())) == 2


def test_a_failed_rename_is_not_hidden(tmp_path, monkeypatch):
    monkeypatch.setenv("INTERP_KIT_CACHE", str(tmp_path))
    with pytest.raises(OSError): _once("never-1", lambda path: None)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_shape_are_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("INTERP_KIT_CACHE", str(tmp_path))
    _trained_once(torch.nn.Linear(3, 1), "net-1", lambda: None); file, = tmp_path.iterdir()
    net = torch.nn.Linear(2, 1); assert not _fits(net, file)
    with _one_thread(): assert _trained_once(net, "net-1", lambda: None)["weight"].shape == (1, 2) and _fits(net, file)


# What others do with them

@pytest.mark.parametrize("task", OLD + NEW)
def test_capture_runs(task):
    learn = demo_learner(task); p = capture(learn, progress=False)
    assert len(p) == len(learn.dls.valid_ds) and p.losses.isfinite().all() and len(p.losses) == len(p)
    assert p.task == dict(multilabel="multilabel", segmentation="segmentation", regression="regression", tabular_regression="regression").get(task, "classification")
    if task == "segmentation": assert p.vocab == ["background", *"0123456789"]
    if task == "multilabel": assert p.vocab == list("0123456789")
    assert abs(float(p.losses.mean()) - float(learn.validate()[0])) < 1e-3*max(1, float(p.losses.mean()))


@pytest.mark.parametrize("task", NEW)
def test_export_and_load(task, tmp_path):
    from fastai.learner import load_learner
    learn = demo_learner(task); learn.export(tmp_path/"learner.pkl")
    preds = learn.get_preds()[0]; again = load_learner(tmp_path/"learner.pkl")
    items = learn.dls.valid_ds.items if task != "tabular_regression" else None
    dl = again.dls.test_dl(list(items) if isinstance(items, list) else items) if items is not None else learn.dls.valid
    assert torch.allclose(again.get_preds(dl=dl)[0], preds, atol=1e-4)


def test_the_layer_for_maps_is_found():
    from interp_kit.core import find_layer
    learn = demo_learner("segmentation"); assert find_layer(learn) in list(learn.model.coarse.modules())
    learn = demo_learner("regression"); assert find_layer(learn) in list(learn.model[0].modules())


# The detector

def count_found(found, targets, min_score=.3, min_overlap=.5):
    "How many objects there are, how many of them are found under the right label, and how many boxes find nothing; counted literally."
    counts = dict(objects=0, found=0, false=0)
    for o, t in zip(found, targets, strict=True):
        free = set(range(len(t["labels"])))
        for i in o["scores"].argsort(descending=True).tolist():
            if o["scores"][i] < min_score: continue
            best, at = 0, None
            for j in sorted(free):
                (a, b, c, d), (e, f, g, h) = o["boxes"][i].tolist(), t["boxes"][j].tolist()
                both = max(0, min(c, g) - max(a, e))*max(0, min(d, h) - max(b, f))
                iou = both/((c - a)*(d - b) + (g - e)*(h - f) - both)
                if o["labels"][i] == t["labels"][j] and iou > best: best, at = iou, j
            if best >= min_overlap: free.discard(at)
            counts["found" if best >= min_overlap else "false"] += 1
        counts["objects"] += len(t["labels"])
    return counts


def test_the_detector_finds_most_objects_it_has_never_seen():
    images, targets = digit_scenes(300, 11, held_out=True)
    with torch.no_grad(): found = demo_detector()(list(images))
    counts = count_found(found, targets)
    assert counts["found"] >= .85*counts["objects"] and counts["false"] <= .3*len(images)
    assert .4*counts["objects"] < count_found(found, targets, min_overlap=.75)["found"] < counts["found"]


def test_the_detector_takes_what_torchvision_takes():
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large as ssd
    theirs = ssd(weights=None, weights_backbone=None, num_classes=10).eval(); ours = demo_detector()
    images, targets = digit_scenes(2, size=64)
    for a, b in zip(ours(list(images)), theirs(list(images))):
        assert {k: (v.dtype, v.ndim) for k, v in a.items()} == {k: (v.dtype, v.ndim) for k, v in b.items()}
    for m in (ours, theirs): losses = m.train()(list(images), targets); assert all(l.ndim == 0 and l.requires_grad for l in losses.values())


def test_batches_sizes_and_shifts_do_not_matter():
    model = demo_detector(); images, _ = digit_scenes(4, 5, size=(60, 84), held_out=True)
    with torch.no_grad():
        together, alone = model(images), [model([im])[0] for im in images]
        mixed = model([images[0], torch.rand(3, 33, 47), images[1]])
        odd = model([images[0, :, :59, :83]])[0]
    for a, b in zip(together, alone): assert all(torch.allclose(a[k].float(), b[k].float(), atol=1e-3) for k in a)
    assert torch.allclose(mixed[2]["boxes"], together[1]["boxes"], atol=1e-3) and (odd["boxes"][:, 2] <= 83).all() and (odd["boxes"][:, 3] <= 59).all()
