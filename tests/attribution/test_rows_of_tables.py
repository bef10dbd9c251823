"Rows of a table are explained as the model saw them, whether they come raw, processed, or from the losses."
import numpy as np, pandas as pd, pytest, torch
from fastai.tabular.all import (Categorify, FillMissing, Normalize, TabularDataLoaders, tabular_learner)
from interp_kit.attribution import explain
from interp_kit.core import DataError
from interp_kit.interpret import interpret

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def shop():
    rng = np.random.default_rng(4)
    n = 900
    df = pd.DataFrame(dict(price=rng.gamma(2., 30., n), visits=rng.integers(0, 40, n)))
    df["town"], df["sort"] = rng.choice(["Ås", "Bø", "Ål"], n), rng.choice(["new", "old"], n)
    df.loc[rng.choice(n, 90, replace=False), "price"] = np.nan
    score = df.price.fillna(60)/30 - df.visits/20 + df.town.map({"Ås": -1, "Bø": 0, "Ål": 1})
    df["bought"] = np.where(score + rng.normal(size=n) > 1, "yes", "no")
    df.index = df.index*3 + 7 # labels that are no positions
    dls = TabularDataLoaders.from_df(
        df, procs=[Categorify, FillMissing, Normalize], cat_names=["town", "sort"], cont_names=["price", "visits"],
        y_names="bought", valid_idx=list(range(600, n)), bs=64, num_workers=0)
    torch.manual_seed(0)
    learn = tabular_learner(dls, layers=[12])
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-2)
    return learn, df


def test_items_of_the_worst_rows_are_raw_and_explained_as_predicted(shop):
    learn, df = shop
    interp = interpret(learn, progress=False)
    _, rows, items = interp.top_losses(5, items=True)
    raw = df.loc[items.index]
    assert items.town.tolist() == raw.town.tolist() and np.allclose(items.visits, raw.visits)
    known = raw.price.notna()
    assert np.allclose(items.price[known], raw.price[known], rtol=1e-5)
    a = explain(learn, items)
    assert a.labels == [interp.vocab[c] for c in interp.decoded[rows]]
    from_loader = next(iter(learn.dls.test_dl(raw, num_workers=0)))[:2]
    with torch.no_grad(): want = learn.model.eval()(*from_loader).max(1).values
    assert torch.allclose(a.scores, want, atol=1e-4)


@pytest.mark.parametrize("which", [0, 1], ids=["train", "valid"])
def test_processed_rows_are_not_processed_again(shop, which):
    learn, df = shop
    processed = learn.dls.loaders[which].items.iloc[[4, 0, 2]]
    a, b = explain(learn, processed), explain(learn, df.loc[processed.index])
    assert torch.allclose(a.scores, b.scores, atol=1e-5)
    assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(a.values, b.values))
    one = explain(learn, processed.iloc[1])
    assert torch.allclose(one.scores, a.scores[1:2], atol=1e-5)


def test_rows_with_a_familiar_label_but_other_values_are_raw(shop):
    learn, df = shop
    raw = df.iloc[[700, 701]].assign(visits=[3, 35])
    a = explain(learn, raw)
    assert not torch.allclose(a.scores, explain(learn, df.iloc[[700, 701]]).scores)


@pytest.mark.parametrize("cats,conts", [(["town", "sort"], []), ([], ["visits"])], ids=["categories", "numbers"])
@pytest.mark.parametrize("method", ["auto", "saliency", "deep_lift", "gradient_shap"])
def test_tables_of_one_kind_of_columns(shop, cats, conts, method):
    _, df = shop
    dls = TabularDataLoaders.from_df(
        df, procs=[Categorify, Normalize], cat_names=cats, cont_names=conts, y_names="bought",
        valid_idx=list(range(600, 900)), bs=64, num_workers=0)
    torch.manual_seed(1)
    learn = tabular_learner(dls, layers=[8])
    a = explain(learn, df.iloc[[3, 600]], method)
    given = a.values[0 if cats else 1]
    assert given.shape == (2, len(cats) + len(conts)) and torch.isfinite(given).all() and given.abs().sum() > 0
    a.show()
    if method == "auto": assert float(a.delta.abs().max()) < 1e-2*max(1., float(a.scores.abs().max()))


def test_an_empty_input_is_refused():
    with pytest.raises(DataError, match="is empty"): explain(torch.nn.Linear(3, 2), torch.zeros(0, 3))
    with pytest.raises(DataError, match="is empty"): explain(torch.nn.Linear(3, 2), torch.zeros(2, 0))
