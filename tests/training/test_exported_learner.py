"A learner that an earlier version exported with our callbacks in it (fixtures/make_export.py) loads and trains on."

import numpy as np, pytest, torch
import torch.nn.functional as F
import quick_learner
from fastai.learner import load_learner
from fixtures.make_export import HERE, values
from interp_kit.all import ActivationStats, InterpretationCallback, capture

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def learn():
    return load_learner(HERE / "exported_1.pkl")


@pytest.fixture
def known():
    return dict(np.load(HERE / "exported_1.npz"))


def test_statistics_are_those_that_were_seen(learn, known):
    stats = learn.activation_stats
    assert type(stats) is ActivationStats
    got = values(stats)
    assert got.keys() | {"weight"} == known.keys()
    for k, v in got.items():
        np.testing.assert_array_equal(v, known[k], err_msg=k)
    np.testing.assert_array_equal(learn.model.weight.detach().numpy(), known["weight"])
    assert len(stats.stats) == len(known["steps"]) and stats.hist(0).shape == (
        known["hists"].shape[2],
        len(known["steps"]),
    )
    np.testing.assert_array_equal(stats.layer_stats(0)[0], known["steps"][:, 0, 0])


def test_the_watching_callback_has_its_settings_and_watches_again(learn):
    cb = learn.interpretation
    assert type(cb) is InterpretationCallback and (cb.every, cb.k, cb.on, cb.plot, cb.path, cb.history) == (
        3,
        5,
        "both",
        False,
        None,
        [],
    )
    learn.dls = quick_learner.make().dls
    steps = len(learn.activation_stats.stats)
    with learn.no_logging():
        learn.fit(2, 1e-2)
    x, y = map(torch.stack, zip(*[(x, y) for x, y in learn.dls.valid.dataset]))
    with torch.no_grad():
        z = learn.model(x)
    interp, table = cb.interpretation, cb.cartography()
    np.testing.assert_allclose(interp.losses, F.cross_entropy(z, y, reduction="none"), atol=1e-6)
    np.testing.assert_allclose(interp.preds, z.softmax(1), atol=1e-6)
    np.testing.assert_allclose(interp.losses, capture(learn, progress=False).losses, atol=1e-6)
    assert table.row.tolist() == list(range(40)) and (table.n_epochs == 2).all() and table.aum.notna().all()
    assert len(learn.activation_stats.stats) == steps + 2 * 5
