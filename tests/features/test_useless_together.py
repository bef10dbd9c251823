"Columns that each say next to nothing but carry the answer together are not called useless."
import numpy as np, pandas as pd, pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from interp_kit.features import FeatureImportance

pytestmark = pytest.mark.filterwarnings("ignore")


def looked_at(columns, noise, kind, seed):
    "Importance of a linear model over columns that carry all together and over columns of noise."
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2400, columns + noise))
    y = x[:, :columns].sum(1) + rng.normal(size=2400)
    model = LinearRegression() if kind == "regression" else LogisticRegression(max_iter=500)
    if kind == "classification": y = (y > 0).astype(int)
    names = [f"x{i}" for i in range(columns)] + [f"noise{i}" for i in range(noise)]
    frame = pd.DataFrame(x, columns=names)
    model.fit(frame[:1200], y[:1200])
    importance = FeatureImportance(model, frame[1200:], y[1200:])
    importance.permutation_importance(n_repeats=3, random_state=seed)
    return importance, next((f for f in importance.findings() if f.type == "useless_columns"), None)


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_many_that_carry_all_together(kind):
    _, found = looked_at(90, 0, kind, 0)
    assert found is None or len(found.classes) < 20


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_only_noise_is_named(kind):
    importance, found = looked_at(8, 25, kind, 1)
    assert found is not None and len(found.classes) >= 8 and all(c.startswith("noise") for c in found.classes)
    joint = importance.permutation_importance(n_repeats=5, random_state=3, groups={"named": list(found.classes)})
    drop = joint.set_index("feature").importance["named"]
    assert abs(drop) <= 1.5*found.evidence["limit"]


def test_skill_of_r2_is_measured_from_the_mean_of_the_targets():
    importance, found = looked_at(6, 20, "regression", 2)
    base = importance.needed().attrs["base_score"]
    assert found is not None and found.evidence["limit"] <= .02*base + 1e-12
