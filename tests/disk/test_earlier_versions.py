"Predictions that an earlier version wrote (fixtures/make_predictions.py) are read, taken as they are, gone on with."

import shutil
import numpy as np, pytest
from fixtures.make_predictions import HERE, LOSSES, MISSING, OBSERVERS, VOCABS, learner, values
from interp_kit.all import ClassificationInterpretation, Predictions, StorageError, capture

pytestmark = pytest.mark.filterwarnings("ignore")


def known(task):
    return {k.split(".", 1)[1]: v for k, v in np.load(HERE / "values.npz").items() if k.split(".")[0] == task}


def check(p, task, **close):
    got, want = values(p), known(task)
    assert got.keys() == want.keys() and p.task == task and p.vocab == VOCABS[task]
    for k, v in want.items():
        assert got[k].dtype == v.dtype, k
        if close:
            np.testing.assert_allclose(got[k].astype(float), v.astype(float), **close, err_msg=k)
        else:
            np.testing.assert_array_equal(got[k], v, err_msg=k)


def bytes_of(path):
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file() and f.name != ".lock"}


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("task", LOSSES)
def test_they_open_with_their_values(task, verify):
    p = Predictions.open(HERE / task, verify=verify)
    check(p, task)
    assert (
        p.meta["format_version"] == "1.0"
        and p.meta["loss"].startswith(LOSSES[task].__name__)
        and p.rows.tolist() == list(range(len(p)))
    )


@pytest.mark.parametrize("task", LOSSES)
def test_a_whole_one_is_taken_as_it_is(task, tmp_path, count_rows):
    path, learn = shutil.copytree(HERE / task, tmp_path / "p"), learner(task)
    rows, observers = count_rows(learn), OBSERVERS[task]()
    check(capture(learn, path=path, observers=observers, progress=False), task)
    assert rows == [] and bytes_of(path) == bytes_of(HERE / task)
    for o in observers:
        np.testing.assert_array_equal(o.columns()["features"][1], known(task)["features"])


def test_a_partial_one_is_gone_on_with(tmp_path, count_rows):
    path, learn, whole = (
        shutil.copytree(HERE / "partial", tmp_path / "p"),
        learner("classification"),
        Predictions.open(HERE / "classification"),
    )
    part = Predictions.open(path, partial=True)
    assert part.meta["coverage"]["rows"] == len(whole) - 8 * len(MISSING) and not set(MISSING) & set(
        part.meta["coverage"]["shards"]
    )
    rows = count_rows(learn)
    p = capture(learn, path=path, observers=OBSERVERS["classification"](), progress=False)
    check(p, "classification", rtol=1e-5, atol=1e-6)  # another processor may round otherwise
    assert sum(rows) == 8 * len(MISSING)
    kept, now = bytes_of(HERE / "partial"), bytes_of(path)
    assert all(now[k] == v for k, v in kept.items()) and now.keys() == bytes_of(HERE / "classification").keys()


def test_other_weights_are_still_refused(tmp_path):
    path, learn = shutil.copytree(HERE / "classification", tmp_path / "p"), learner("classification")
    learn.model[0].bias.data += 1
    with pytest.raises(StorageError, match="the model"):
        capture(learn, path=path, observers=OBSERVERS["classification"](), progress=False)


def test_memory_says_the_same():
    for task in LOSSES:
        now, want = values(capture(learner(task), observers=OBSERVERS[task](), progress=False)), known(task)
        for k in want.keys() & now.keys():
            np.testing.assert_allclose(
                now[k].astype(float), want[k].astype(float), rtol=1e-5, atol=1e-6, err_msg=f"{task}.{k}"
            )


def test_what_is_asked_of_them():
    "Scores, columns and the confusion matrix, from arithmetic on the known arrays."
    v, interp = known("classification"), ClassificationInterpretation.from_predictions(
        Predictions.open(HERE / "classification")
    )
    assert list(interp.to_frame().columns) == [
        "row",
        "id",
        "item",
        "target",
        "predicted",
        "prob_target",
        "prob_predicted",
        "loss",
        "correct",
    ]
    m = interp.metrics()
    np.testing.assert_allclose(
        [m["accuracy"], m["loss"], m["mean_confidence"]],
        [(v["targs"] == v["decoded"]).mean(), v["losses"].mean(), v["preds"].max(1).mean()],
        rtol=1e-5,
    )
    assert interp.confusion_matrix().tolist() == [
        [int(((v["targs"] == a) & (v["decoded"] == b)).sum()) for b in range(3)] for a in range(3)
    ]
