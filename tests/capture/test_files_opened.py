"No verb opens more files after fastai's own passes than before them: a loader is not a list to be kept."
import numpy as np, PIL.Image, pytest, torch
from torch import nn
import fastai.callback.all # patches no_bar and lr_find onto Learner
from fastai.data.transforms import get_image_files
from fastai.layers import ConvLayer
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.vision.data import ImageDataLoaders
from interp_kit.all import check_model, explain, find_layer, interpret, summary

pytestmark = pytest.mark.filterwarnings("ignore")


def label_of(f): return f.parent.name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, r = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(90):
        (root/str(i % 3)).mkdir(exist_ok=True)
        PIL.Image.fromarray(r.integers(0, 255, (16, 16, 3), dtype="uint8")).save(root/str(i % 3)/f"{i}.png")
    return root


@pytest.fixture
def reads(monkeypatch):
    opened, reads = PIL.Image.open, []
    monkeypatch.setattr(PIL.Image, "open", lambda *a, **k: reads.append(1) or opened(*a, **k))
    return reads


def learner(folder):
    files = get_image_files(folder)
    dls = ImageDataLoaders.from_path_func(folder, files, label_of, valid_pct=.5, seed=1, bs=16, num_workers=0)
    torch.manual_seed(0)
    net = nn.Sequential(ConvLayer(3, 4, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return Learner(dls, net, loss_func=CrossEntropyLossFlat(), path=folder)


def counted(learn, reads):
    f = learn.dls.valid.items[0]
    verbs = dict(explain=lambda: explain(learn, f), summary=lambda: summary(learn),
                 find_layer=lambda: find_layer(learn), check_model=lambda: check_model(learn, seconds=5),
                 interpret=lambda: interpret(learn, progress=False))
    seen = {}
    for name, call in verbs.items():
        reads.clear()
        call()
        seen[name] = len(reads)
    return seen


BEFORE = dict(fit=lambda l: l.fit(1), validate=lambda l: l.validate(), get_preds=lambda l: l.get_preds(),
              lr_find=lambda l: l.lr_find(num_it=5, show_plot=False))


def test_files_opened_after_fastais_passes(folder, reads):
    plain = counted(learner(folder), reads)
    assert plain["explain"] == 1 and plain["interpret"] == 45
    for name, before in BEFORE.items():
        learn = learner(folder)
        with learn.no_bar(), learn.no_logging(): before(learn)
        now = counted(learn, reads)
        assert all(now[k] <= plain[k] for k in plain), (name, plain, now)


def test_files_opened_after_export(folder, reads):
    learn = learner(folder)
    learn.export("net.pkl")
    loaded = load_learner(folder/"net.pkl")
    reads.clear()
    explain(loaded, learn.dls.valid.items[0])
    assert len(reads) == 1
