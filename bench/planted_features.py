"Faults planted into columns of small tables, and tables without any."
import functools, warnings
import numpy as np, pandas as pd, torch
from torch import nn
from interp_kit.core import as_learner
from interp_kit.features.importance import FeatureImportance


def table(seed, n=1200, what=None, task="classification"):
    "Columns a, b, c that matter, and what was planted: `n` rows to fit on and as many to ask about."
    rng = np.random.RandomState(seed)
    X = pd.DataFrame(rng.randn(2*n, 3), columns=["a", "b", "c"]); z = X.a + .8*X.b - .6*X.c + .7*rng.randn(2*n)
    y = (z > 0).astype(int) if task == "classification" else z
    if what == "leak": X["outcome"] = y + .15*rng.randn(2*n)
    if what == "exact_leak": X["outcome"] = y
    if what == "noise": X["noise"] = rng.randn(2*n)
    if what == "two_noises": X["noise"], X["dice"] = rng.randn(2*n), rng.randint(0, 6, 2*n) - 2.5
    if what == "all_noise": X = pd.DataFrame(rng.randn(2*n, 4), columns=list("abcd"))
    if what == "turned": X.loc[n:, "c"] *= -1
    return X, y.to_numpy()


def fitted(seed, what=None, task="classification", n=1200):
    "A linear model of the first half, as a Learner over the second."
    from sklearn.linear_model import LinearRegression, LogisticRegression
    X, y = table(seed, n, what, task)
    fit = (LogisticRegression() if task == "classification" else LinearRegression()).fit(X[:n], y[:n])
    net = nn.Linear(X.shape[1], 2 if task == "classification" else 1)
    with torch.no_grad():
        net.weight.zero_(); net.weight[-1] = torch.tensor(np.ravel(fit.coef_)); net.bias.zero_(); net.bias[-1] = float(np.ravel(fit.intercept_)[0])
    data = torch.utils.data.TensorDataset(torch.tensor(X[n:].to_numpy()).float(), torch.tensor(y[n:]) if task == "classification" else torch.tensor(y[n:, None]).float())
    learn = as_learner(net, torch.utils.data.DataLoader(data, batch_size=n), nn.CrossEntropyLoss() if task == "classification" else nn.MSELoss())
    return FeatureImportance(learn, names=list(X.columns))


def tabular(seed, what, n=900):
    "A small fastai tabular learner, trained for two epochs, with a category beside the numbers."
    from fastai.data.block import CategoryBlock
    from fastai.tabular.core import Categorify, FillMissing, Normalize, TabularPandas
    from fastai.tabular.learner import tabular_learner
    import fastai.callback.schedule # gives Learner its fit_one_cycle
    from fastai.torch_core import set_seed
    set_seed(seed)
    X, y = table(seed, n, what); rng = np.random.RandomState(seed)
    df = X.assign(kind=np.where(X.a + .5*rng.randn(2*n) > 0, "x", "y"), target=np.array(["no", "yes"])[y])
    if what == "leak_category": df["paid_out"] = np.where(y == 1, "claim paid", "none")
    if what == "noise_category": df["lot"] = rng.choice(list("ABCDE"), 2*n)
    cats = [c for c in ("kind", "paid_out", "lot") if c in df]
    to = TabularPandas(df, [Categorify, FillMissing, Normalize], cat_names=cats, cont_names=[c for c in X.columns], y_names="target", y_block=CategoryBlock(), splits=(list(range(n)), list(range(n, 2*n))))
    learn = tabular_learner(to.dataloaders(bs=64), layers=[16])
    with learn.removed_cbs([c for c in learn.cbs if c.name == "progress"]), learn.no_logging(): learn.fit_one_cycle(4, 2e-2)
    return FeatureImportance(learn)


def told(fi, seed, **kw):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fi.permutation_importance(random_state=seed, **kw)
        return fi.findings()


def _linear(what, task="classification", n=1200, **kw): return lambda seed: told(fitted(seed, what, task, n), seed, **kw)
def _network(what): return lambda seed: told(tabular(seed, what), seed)


LEFT = {"useless_columns"} # of a model that lives on its leak nothing hangs on the other columns
CASES = dict(leak=(_linear("leak"), "leaking_column", LEFT), exact_leak=(_linear("exact_leak"), "leaking_column", LEFT), leak_regression=(_linear("leak", "regression"), "leaking_column", LEFT),
             leak_fastai=(_network("leak"), "leaking_column", LEFT), leak_fastai_category=(_network("leak_category"), "leaking_column", LEFT),
             noise=(_linear("noise", n=5000), "useless_columns", set()), two_noises_regression=(_linear("two_noises", "regression"), "useless_columns", set()), noise_loss=(_linear("noise", metric="loss"), "useless_columns", set()),
             turned=(_linear("turned"), "harmful_columns", set()), turned_regression=(_linear("turned", "regression"), "harmful_columns", set()))
PLANTED = dict(leak={"outcome"}, noise={"noise"}, two_noises={"noise", "dice"}, leak_category={"paid_out"}, turned={"c"}, exact_leak={"outcome"})


def _harm(what, task="classification", n=300, **kw):
    "Findings of harm and of leaks where a noise column is there: that it is called useless is right."
    return lambda seed: [f for f in told(fitted(seed, what, task, n), seed, **kw) if f.type != "useless_columns"]


CLEAN = dict(clean=lambda seed: told(fitted(seed, n=400), seed), clean_regression=lambda seed: told(fitted(seed, task="regression", n=400), seed), clean_loss=lambda seed: told(fitted(seed, n=400), seed, metric="loss"),
             overfitted_noise=_harm("two_noises", n=60), overfitted_noise_regression=_harm("two_noises", "regression", n=60), all_noise=lambda seed: told(fitted(seed, "all_noise", n=300), seed))
