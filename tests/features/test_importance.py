"Permutation importance of tabular learners of every kind: scikit-learn's numbers, nothing encoded twice, nothing touched."
import random
from contextlib import contextmanager
import fastai.metrics as fam
import numpy as np, pandas as pd, pytest, torch
from fastai.data.block import CategoryBlock, RegressionBlock
from fastai.learner import AvgMetric
from fastai.tabular.core import Categorify, FillMissing, Normalize, ReadTabBatch, TabularPandas
from fastai.tabular.learner import tabular_learner
from fastai.torch_core import set_seed
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.inspection import permutation_importance
from interp_kit.core import DataError, InterpKitError, LabelError, TaskError
from interp_kit.features.dependence import partial_dependence, plot_partial_dependence
from interp_kit.features.forest import oob_score_importance, rfpimp_importance
from interp_kit.features.importance import FeatureImportance
from interp_kit.features.tables import as_table


def frame(n=240, seed=0):
    "Two numbers (one with gaps), two categories (one with gaps), targets of every kind."
    rng = np.random.RandomState(seed)
    df = pd.DataFrame(dict(age=rng.randint(18, 80, n).astype(float), fare=rng.gamma(2, 20, n), sex=rng.choice(["female", "male"], n), deck=rng.choice(list("ABC"), n)))
    z = 2*(df.sex == "female") - (df.age - 50)/20 + rng.randn(n)*.5
    df["outcome"], df["amount"], df["half"] = np.where(z > .5, "lived", "died"), z.astype("float32"), (z/2 + df.fare/50).astype("float32")
    df.loc[rng.choice(n, n//6, replace=False), "age"] = np.nan; df.loc[rng.choice(n, 9, replace=False), "deck"] = None
    return df


def learner(df, cats=("sex", "deck"), conts=("age", "fare"), y="outcome", epochs=0):
    set_seed(1)
    ys = [y] if isinstance(y, str) else list(y)
    n = len(df)*2//3
    to = TabularPandas(df, [Categorify, FillMissing, Normalize], cat_names=list(cats), cont_names=list(conts), y_names=y if isinstance(y, str) else ys,
                       y_block=CategoryBlock() if y == "outcome" else RegressionBlock(n_out=len(ys)), splits=(list(range(n)), list(range(n, len(df)))))
    learn = tabular_learner(to.dataloaders(bs=32), layers=[12], n_out=2 if y == "outcome" else len(ys))
    with learn.removed_cbs([c for c in learn.cbs if c.name == "progress"]), learn.no_logging(): learn.fit(epochs, 3e-2)
    return learn


class Behind(BaseEstimator):
    "The learner's model behind an estimator's face, over the matrix of processed columns."
    def __init__(self, table=None): self.table = table
    def fit(self, X, y): return self
    def __sklearn_is_fitted__(self): return True
    def _preds(self, X):
        k = self.table.inputs[0].shape[1]
        with torch.no_grad(): return self.table.preds(self.table.learn.model.eval()(torch.tensor(X[:, :k]).long(), torch.tensor(X[:, k:]).float()))


class BehindClassifier(ClassifierMixin, Behind):
    classes_ = np.arange(2)
    def predict(self, X): return self._preds(X).argmax(1)
    def predict_proba(self, X): return self._preds(X)


class BehindRegressor(RegressorMixin, Behind):
    def predict(self, X): return self._preds(X)


def rng_states():
    "Random states of Python, NumPy (with the position in its block) and torch."
    name, block, *rest = np.random.get_state()
    return dict(python=random.getstate(), numpy=(name, block.tobytes(), *rest), torch=torch.get_rng_state().numpy().tobytes())


@contextmanager
def unchanged(learn):
    "Nothing of the learner, its tables and the random states is different after the block."
    state, frames = {k: v.clone() for k, v in learn.model.state_dict().items()}, [dl.dataset.items.copy() for dl in learn.dls.loaders]
    training, cbs, names, attrs = [m.training for m in learn.model.modules()], list(learn.cbs), list(learn.dls.valid.dataset.cat_names), set(vars(learn))
    before = rng_states()
    yield
    after = rng_states()
    assert [k for k in before if before[k] != after[k]] == [], "random states moved"
    assert [m.training for m in learn.model.modules()] == training and all(torch.equal(v, state[k]) for k, v in learn.model.state_dict().items())
    assert list(learn.cbs) == cbs and list(learn.dls.valid.dataset.cat_names) == names and set(vars(learn)) == attrs
    for dl, old in zip(learn.dls.loaders, frames): pd.testing.assert_frame_equal(dl.dataset.items, old)


KINDS = dict(classification={}, regression=dict(y="amount"), two_targets=dict(y=("amount", "half")), only_categorical=dict(conts=()), only_continuous=dict(cats=(), conts=("age", "fare")), one_column=dict(cats=(), conts=("fare",)))


@pytest.fixture(scope="module")
def learners(): return {k: learner(frame(), epochs=3, **kw) for k, kw in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ["default", "neg_mean_absolute_error", "roc_auc"])
def test_equals_scikit_learn_on_the_same_permutations(learners, kind, metric):
    numbers = kind in ("regression", "two_targets")
    if metric != "default" and numbers == (metric == "roc_auc"): return
    metric = None if metric == "default" else metric
    fi = FeatureImportance(learners[kind])
    ours = fi.permutation_importance(random_state=7, n_repeats=4, metric=metric, join_na=False, n_boot=0)
    t = fi.table
    X = np.concatenate([x.double().numpy() for x in t.inputs], 1)
    ref = permutation_importance((BehindRegressor if numbers else BehindClassifier)(t), X, t.targs, n_repeats=4, random_state=7, scoring=metric)
    at = [t.names.index(c) for c in ours.feature]
    np.testing.assert_allclose(ours[[f"repeat_{i}" for i in range(4)]], ref.importances[at], atol=1e-6)
    np.testing.assert_allclose(ours.importance, ref.importances_mean[at], atol=1e-6)
    np.testing.assert_allclose(ours["std"], ref.importances_std[at], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_verb_runs_on_every_kind_of_table_and_leaves_the_learner(learners, kind):
    import matplotlib.pyplot as plt
    learn = learners[kind]; learn.model.train()
    with unchanged(learn):
        fi = FeatureImportance(learn)
        r = fi.permutation_importance(random_state=0, n_repeats=2, n_boot=50)
        assert np.isfinite(r[["importance", "low", "high", "se"]]).all().all() and set(r.feature) <= set(fi.table.names)
        fi.plot_importance(); fi.findings(); fi.to_dict()
        fi.permutation_importance(random_state=0, n_repeats=2, conditional=True, metric="loss", n_boot=50)
        assert len(rfpimp_importance(learn)) == len(r) == len(oob_score_importance(learn, n_trees=5))
        for c in fi.table.names[:2]: assert len(plot_partial_dependence(learn, c, grid=4).get_xlabel())
    plt.close("all")


def test_the_snapshot_notices_every_generator(learners):
    "A draw that leaves NumPy's block as it is moves only the position."
    for draw in (random.random, np.random.rand, lambda: torch.rand(1)):
        draw() # NumPy makes a new block now if the old one was used up
        with pytest.raises(AssertionError, match="random states"):
            with unchanged(learners["classification"]): draw()


def test_flags_of_missing_values_go_with_their_column(learners):
    fi = FeatureImportance(learners["classification"])
    t = fi.permutation_importance(random_state=0)
    assert "age_na" in fi.table.names and "age_na" not in set(t.feature) and t.attrs["groups"]["age"] == ["age", "age_na"]
    assert "age_na" in set(fi.permutation_importance(random_state=0, join_na=False).feature)
    together = fi.permutation_importance(random_state=0, groups={"who": ["age", "sex"]})
    assert sorted(together.attrs["groups"]["who"]) == ["age", "age_na", "sex"]


def test_rows_are_encoded_once_and_the_model_sees_large_batches(learners, monkeypatch):
    learn, rows, encoded = learners["classification"], [], []
    handle = learn.model.register_forward_pre_hook(lambda m, x: rows.append(len(x[0])))
    monkeypatch.setattr(type(learn.dls), "test_dl", lambda *a, **k: pytest.fail("a loader was rebuilt"))
    old = ReadTabBatch.encodes
    calls = lambda: sum(encoded)
    table = as_table(learn)
    get = type(learn.dls.valid).create_batch
    monkeypatch.setattr(type(learn.dls.valid), "create_batch", lambda self, b: (encoded.append(len(b)), get(self, b))[1])
    FeatureImportance(learn).permutation_importance(random_state=0, n_repeats=5)
    handle.remove()
    n = len(table); assert calls() == n, "each row is encoded once"
    assert sum(rows) == n*(1 + 4*5) and len(rows) <= 2, "one base pass, and the changed rows in few batches"


def test_categories_unseen_in_training_and_frames_given_as_they_are(learners):
    learn, df = learners["classification"], frame(60, 5)
    df.loc[df.index[:9], "deck"] = "Z"; df.loc[df.index[9:14], "age"] = np.nan
    kept = df.copy()
    with unchanged(learn): a = FeatureImportance(learn).permutation_importance(df, random_state=0, n_repeats=3)
    b = FeatureImportance(learn).permutation_importance(learn.dls.test_dl(df, with_labels=True), random_state=0, n_repeats=3)
    pd.testing.assert_frame_equal(a, b); pd.testing.assert_frame_equal(df, kept); assert a.n.iloc[0] == 60
    with unchanged(learn): pd_deck = partial_dependence(learn, "deck", dl=df)
    assert pd_deck["value"].tolist() == ["#na#", "A", "B", "C"]
    ages = partial_dependence(learn, "age", dl=df, grid=5, n_rows=None)
    assert ages["value"].min() >= 18 and ages["value"].max() <= 80, "years, not standard deviations"


def test_partial_dependence_of_a_filled_column_says_not_missing(learners):
    learn = learners["classification"]; t = as_table(learn)
    ours = partial_dependence(learn, "age", grid=3, n_rows=None)
    x = [o.clone() for o in t.inputs]; mean, std = learn.dls.normalize.means["age"], learn.dls.normalize.stds["age"]
    x[0][:, t.columns("age_na")[1]] = 1; x[1][:, t.columns("age")[1]] = (ours["value"].iloc[1] - mean)/std
    with torch.no_grad(): p = learn.model.eval()(*x).softmax(1).mean(0)
    np.testing.assert_allclose(ours.iloc[1][["died", "lived"]].astype(float), p, atol=1e-5)


def test_shuffled_dropping_and_weighted_loaders_give_every_row_once(learners):
    learn = learners["regression"]
    train = FeatureImportance(learn); train.permutation_importance(learn.dls.train, random_state=0, n_repeats=1)
    assert len(train.table) == learn.dls.train.n
    np.testing.assert_allclose(train.table.targs, learn.dls.train_ds.items.amount.to_numpy(), atol=1e-6)


def test_what_cannot_be_asked_says_why(learners):
    from interp_kit.demo import demo_learner
    learn = learners["classification"]; fi, df = FeatureImportance(learn), frame(30)
    empty = learn.dls.test_dl(df, with_labels=True).new(learn.dls.valid_ds.new(learn.dls.valid_ds.items.iloc[:0]))
    for bad, error, says in ((lambda: fi.permutation_importance(learn.dls.test_dl(df.drop(columns="outcome"))), LabelError, "no targets"), (lambda: fi.permutation_importance(empty), DataError, "empty"),
                             (lambda: fi.permutation_importance(df.drop(columns="fare")), DataError, "fare"), (lambda: fi.permutation_importance(groups={"a": ["nobody"]}), DataError, "nobody"),
                             (lambda: FeatureImportance(demo_learner("classification")).permutation_importance(), TaskError, "table"), (lambda: fi.permutation_importance(metric="r2"), TaskError, "regression"),
                             (lambda: FeatureImportance(object()).permutation_importance(), TaskError, "as_learner"), (lambda: partial_dependence(learn, "nobody"), DataError, "nobody")):
        with pytest.raises(error, match=says): bad()


def test_answers_that_are_not_finite_are_named(learners):
    learn = learner(frame(90)); bad = learn.dls.valid_ds.items; learn.dls.valid_ds.items["fare"] = bad.fare.where(np.arange(len(bad)) != 4, np.nan)
    with pytest.raises(InterpKitError, match=r"1 of 30 rows \(first: row 4\)"): FeatureImportance(learn).permutation_importance()


def test_a_constant_column_and_two_rows():
    df = frame(90).assign(same=1.); learn = learner(df, conts=("age", "fare", "same"))
    r = FeatureImportance(learn).permutation_importance(random_state=0).set_index("feature")
    assert (r.loc["same", ["importance", "std", "se", "low", "high"]] == 0).all()
    assert len(FeatureImportance(learn).permutation_importance(df.iloc[:2], random_state=0)) == 5


def test_several_chunks_give_the_same():
    learn = learner(frame(300)); a, b = as_table(learn), as_table(learn); b.batch_rows = 32
    pd.testing.assert_frame_equal(*(FeatureImportance(t).permutation_importance(random_state=0, n_boot=100) for t in (a, b)), atol=1e-5)


def top(inp, targ): return fam.top_k_accuracy(inp, targ.flatten(), k=1)


METRICS = dict(classification=[fam.accuracy, AvgMetric(fam.accuracy), fam.F1Score(pos_label=0), fam.RocAucBinary(), fam.error_rate, top], regression=[fam.mae, fam.mse, fam.rmse, fam.R2Score()], two_targets=[fam.mae])


def test_metrics_of_fastai_are_taken_as_fastai_takes_them(learners):
    for kind, metrics in METRICS.items():
        learn = learners[kind]; learn.metrics = metrics
        with learn.removed_cbs([c for c in learn.cbs if c.name == "progress"]), learn.no_logging(): refs = learn.validate()[1:]
        learn.metrics = []; table = as_table(learn)
        for metric, ref in zip(metrics, refs, strict=True):
            kept, fi = dict(vars(metric)), FeatureImportance(table)
            r = fi.permutation_importance(random_state=0, n_repeats=2, metric=metric, n_boot=50)
            assert vars(metric) == kept, "a metric object of the caller's is left alone"
            assert np.isfinite(r[["importance", "low", "high"]]).all().all() and r.importance.max() > 0, "more is better: what the model needs has a positive drop"
            sign = -1 if r.attrs["metric"] in ("neg_error_rate", "neg_mae", "neg_mse", "neg_rmse") else 1
            assert abs(sign*r.attrs["base_score"] - ref) < 1e-5, (kind, r.attrs["metric"])
    ours, theirs = (FeatureImportance(learners["classification"]).permutation_importance(random_state=3, metric=m, n_boot=0) for m in (None, fam.accuracy))
    pd.testing.assert_frame_equal(ours, theirs, atol=1e-6)


def test_a_metric_that_fails_is_named_with_its_reason(learners):
    class Failing:
        def __call__(self, y, p): raise ValueError("of its own")
    with pytest.raises(TaskError, match="The metric Failing fails on 80 rows: ValueError: of its own"): FeatureImportance(learners["classification"]).permutation_importance(metric=Failing())


def test_gaps_in_a_column_that_had_none_in_training_are_named(learners):
    df = frame(40); df.loc[df.index[[7, 9]], "fare"] = np.nan
    with pytest.raises(DataError, match=r"'fare' has 2 missing values \(first: row 7\)"): FeatureImportance(learners["classification"]).permutation_importance(df)


def test_groups_as_lists_and_columns_by_position_or_given_names(learners):
    fi = FeatureImportance(learners["classification"])
    pd.testing.assert_frame_equal(fi.permutation_importance(random_state=0, groups=[["age", "fare"]]), fi.permutation_importance(random_state=0, groups={"age + fare": ["age", "fare"]}))
    from interp_kit.core import as_learner
    data = torch.utils.data.TensorDataset(torch.randn(60, 3), torch.randint(0, 2, (60,)))
    learn = as_learner(torch.nn.Linear(3, 2), torch.utils.data.DataLoader(data, batch_size=20), torch.nn.CrossEntropyLoss())
    named = dict(names=["a", "b", "c"], grid=3)
    for column in ("b", 1, -2, np.int64(1)): pd.testing.assert_frame_equal(partial_dependence(learn, column, **named), partial_dependence(learn, "x1", grid=3), check_flags=False)
    assert partial_dependence(learn, 1, **named).attrs["columns"] == ["b"]
    for bad in (3, -4, 1.5, None, [["b"]]):
        with pytest.raises(DataError): partial_dependence(learn, bad, **named)
