"The door to all methods: every method, every kind of input, every task."
import copy
import numpy as np, pandas as pd, pytest, torch
from torch import nn
from interp_kit.attribution.result import Attribution
from interp_kit.attribution.explain import (
    ALIASES, METHODS, _centre_map as centre_map, explain, _method_name as method_name, _random_map as random_map)
from interp_kit.attribution.rise import RISE
from interp_kit.attribution.targets import in_region, of_output
from interp_kit.attribution.probe import probing
from interp_kit.core import DataError, InterpKitError, LabelError, TaskError
from interp_kit.demo import demo_learner, generated_sentences
import interp_kit.interpret.verbs # learn.explain

pytestmark = pytest.mark.filterwarnings("ignore")
FAST = dict(rise=dict(n_masks=60), opticam=dict(n_steps=3), integrated_gradients=dict(n_steps=8, tol=None))


def batch(learn, n=3):
    dl = learn.dls.valid
    return tuple(x[:n] for x in dl.one_batch()[:dl.n_inp])


def test_the_names_of_the_contract_are_there():
    names = "gradcam gradcam++ layercam eigencam scorecam hirescam opticam integrated_gradients gradient_times_input saliency deep_lift gradient_shap deep_lift_shap rise random centre".split()
    assert set(names) <= set(METHODS), set(names) - set(METHODS)
    assert ALIASES["ig"] == "integrated_gradients" and method_name("ig") == "integrated_gradients"


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_explains_a_picture_and_leaves_the_model(digits, method):
    model = digits.model; model.train()
    for p in model.parameters(): p.grad = torch.ones_like(p)
    (x,) = batch(digits); before = {k: v.clone() for k, v in model.state_dict().items()}; rng = torch.get_rng_state()
    try:
        a = explain(digits, x, method, [1, 2, 3], **FAST.get(method, {}))
        assert isinstance(a, Attribution) and a.method == method and a.target == [1, 2, 3] and a.labels == ["1", "2", "3"] and a.heatmap().shape == (3, 32, 32) and torch.isfinite(a.heatmap()).all()
        b = explain(digits, x[1:2], method, "2", **FAST.get(method, {}))
        if method not in ("random", "gradient_shap"): torch.testing.assert_close(b.heatmap()[0], a.heatmap()[1], rtol=1e-3, atol=1e-3*float(a.heatmap()[1].abs().max()) + 1e-7)
        assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and all((p.grad == 1).all() and p.requires_grad for p in model.parameters())
        assert torch.equal(torch.get_rng_state(), rng) and not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    finally:
        model.eval()
        for p in model.parameters(): p.grad = None


@pytest.mark.parametrize("task,method", [("classification", "gradcam"), ("multilabel", "gradcam"), ("segmentation", "gradcam"), ("regression", "gradcam"),
                                         ("tabular", "integrated_gradients"), ("tabular_regression", "integrated_gradients"), ("text", "integrated_gradients")])
def test_auto_and_the_verb_of_a_learner(task, method):
    learn = demo_learner(task)
    a = learn.explain(batch(learn))
    assert a.method == method and len(a) == 3 and a.is_map == (method == "gradcam") and len(a.labels) == 3
    a.show(2)


def test_items_and_tensors_agree(digits):
    files = digits.dls.valid.items[:3]
    from PIL import Image
    with torch.no_grad(): x = digits.dls.test_dl(files).one_batch()[0]
    want = explain(digits, x).values
    torch.testing.assert_close(explain(digits, files).values, want); torch.testing.assert_close(explain(digits, str(files[1])).values, want[1:2]); torch.testing.assert_close(explain(digits, Image.open(files[2]).convert("RGB")).values, want[2:])
    torch.testing.assert_close(explain(digits, x[0]).values, want[:1])


# tables

@pytest.mark.parametrize("task", ["tabular", "tabular_regression"])
def test_a_table_gets_a_number_a_column_that_sum_to_the_change(task):
    learn = demo_learner(task); cat, cont = batch(learn, 5); model = learn.model.eval()
    a = explain(learn, (cat, cont), "integrated_gradients", tol=1e-4)
    ds = learn.dls.valid.dataset
    assert a.names == [*ds.cat_names, *ds.cont_names] and a.values[0].shape == cat.shape and a.values[1].shape == cont.shape
    with torch.no_grad():
        embedded = [e(cat[:, i].long()) for i, e in enumerate(model.embeds)]
        def score(k): # what the model says of the row with embeddings and numbers scaled by k
            x = torch.cat([torch.cat(embedded, 1)*k, model.bn_cont(cont)*0 + model.bn_cont(cont*k) if model.bn_cont is not None else cont*k], 1)
            return model.layers(x)
        change = score(1.) - score(0.)
        change = change[:, 0] if change.shape[1] == 1 else change[torch.arange(5), torch.tensor(a.target)]
    torch.testing.assert_close(a.values[0].sum(1) + a.values[1].sum(1), change, rtol=2e-3, atol=2e-3)


def test_rows_of_a_frame_keep_their_order():
    from sklearn.datasets import load_wine
    learn = demo_learner("tabular")
    df = load_wine(as_frame=True).data.iloc[[150, 3, 77, 100]].assign(strong="yes")
    a = explain(learn, df, "gradient_times_input")
    assert len(a) == 4
    for i in range(4):
        b = explain(learn, df.iloc[[i]], "gradient_times_input")
        assert b.target == a.target[i:i+1]; torch.testing.assert_close(b.values[1], a.values[1][i:i+1]); torch.testing.assert_close(b.values[0], a.values[0][i:i+1])


# texts

def test_several_texts_keep_their_order_and_what_each_says_alone():
    learn = demo_learner("text")
    texts = [s for s, _ in generated_sentences(6, seed=11)]; assert len({len(t.split()) for t in texts}) > 3
    for m in ("integrated_gradients", "saliency", "gradient_times_input", "random"):
        a = explain(learn, texts, m)
        assert len(a) == 6 and len({len(n) for n in a.names}) == 1 == len({a.values.shape[1], len(a.names[0])})
        for i, t in enumerate(texts):
            words = [o for o in a.names[i] if not o.startswith("xx")]
            assert words == t.lower().replace(",", " ,").replace(".", " .").split()
            b = explain(learn, [t], m)
            real = [j for j, o in enumerate(a.names[i]) if o != "xxpad"]
            assert [a.names[i][j] for j in real] == [o for o in b.names[0] if o != "xxpad"] and b.target == a.target[i:i+1]
            if m != "random": torch.testing.assert_close(a.values[i, real], b.values[0, [j for j, o in enumerate(b.names[0]) if o != "xxpad"]])
            torch.testing.assert_close(a.scores[i], b.scores[0]); assert (a.values[i, [j for j in range(a.values.shape[1]) if j not in real]] == 0).all()
        a.show(1)


def test_a_text_is_scored_as_by_the_learner_itself():
    learn = demo_learner("text"); texts = [s for s, _ in generated_sentences(5, seed=3)]
    a = explain(learn, texts)
    for t, label in zip(texts, a.labels):
        with learn.no_bar(): assert str(learn.predict(t)[0]) == label
    with pytest.raises(DataError, match="2 targets for 5"): explain(learn, texts, target=[0, 1])


# labels, masks, numbers, several inputs and outputs

def test_a_label_by_its_name_and_one_a_row():
    learn = demo_learner("multilabel"); (x,) = batch(learn)
    a = explain(learn, x, target="7"); b = explain(learn, x, target=[7, 0, 7])
    assert a.labels == ["7"]*3 and b.labels == ["7", "0", "7"]
    assert torch.equal(a.values[0], b.values[0]) and not torch.equal(a.values[1], b.values[1]) and torch.equal(a.values[2], b.values[2])


def test_a_class_over_a_region_looks_there():
    learn = demo_learner("segmentation"); (x,) = batch(learn, 6)
    with torch.no_grad(): said = learn.model(x).argmax(1)
    i, c = next((i, int(c)) for i in range(6) for c in said[i].unique() if c and (said[i] == c).sum() > 40)
    region = said[i] == c
    for m in ("gradcam", "rise", "integrated_gradients"):
        a = explain(learn, x[i], m, in_region(c, region), **({} if m != "rise" else dict(n_masks=400)))
        heat = a.heatmap()[0].abs()
        near = torch.nn.functional.max_pool2d(region[None, None].float(), 13, 1, 6)[0, 0].bool()
        assert a.labels == [learn.dls.vocab[c]] and heat[near].mean() > 1.5*heat[~near].mean(), m
    assert explain(learn, x).labels[0] == "background"


class Two(nn.Module):
    "An image and a row of numbers in; classes, and a number that is the second column."
    def __init__(self):
        super().__init__(); torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(6, 3)
    def forward(self, image, row):
        h = torch.cat([self.conv(image).relu().mean((2, 3)), row], 1)
        return self.head(h), row[:, 1:]*2 + 0*h[:, :1]


def test_several_inputs_and_outputs():
    xs = torch.rand(3, 3, 16, 16), torch.rand(3, 2)
    for m in ("integrated_gradients", "gradient_times_input"):
        a = explain(Two(), xs, m, of_output(1))
        assert a.labels[0].startswith("output 1") and a.values[0].abs().max() == 0
        torch.testing.assert_close(a.values[1], torch.stack([xs[1][:, 0]*0, xs[1][:, 1]*2], 1))
    for m in ("auto", "rise", "layercam", "centre"):
        a = explain(Two(), xs, m, **FAST.get(m, {}))
        assert a.values[1] is None and a.heatmap().shape == (3, 16, 16); a.show(0)
    r = explain(Two(), xs, "rise", of_output(1), n_masks=50)
    assert r.heatmap().abs().max() == 0 and r.show(0).get_title().endswith("no evidence")
    torch.testing.assert_close(r.scores, xs[1][:, 1]*2)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_transformers(kind):
    from torchvision.models.swin_transformer import SwinTransformer
    from torchvision.models.vision_transformer import VisionTransformer
    torch.manual_seed(0)
    net = VisionTransformer(64, 16, 2, 2, 32, 64, num_classes=5) if kind == "vit" else SwinTransformer([4, 4], 24, [2, 2], [2, 2], [4, 4], num_classes=5)
    (head,) = [m for n, m in net.named_modules() if isinstance(m, nn.Linear) and m.out_features == 5]; nn.init.normal_(head.weight)
    for m in ("auto", "eigencam", "integrated_gradients", "saliency", "rise"):
        a = explain(net, torch.rand(2, 3, 64, 64), m, **FAST.get(m, {}))
        assert a.heatmap().shape == (2, 64, 64) and torch.isfinite(a.heatmap()).all() and a.heatmap().abs().max() > 0


# RISE through the door

def test_rise_is_rise(digits):
    (x,) = batch(digits); act = lambda o: o.softmax(1)
    a = explain(digits, x, "rise", [4, 5, 6], n_masks=80, seed=2)
    for i, t in enumerate([4, 5, 6]): torch.testing.assert_close(a.values[i], RISE(digits, n_masks=80, seed=2).explain(x[i], t).values[0], rtol=1e-4, atol=1e-6)
    f = lambda b: digits.model.eval()(b).detach().numpy()
    b = explain(f, x, "rise", [4, 5, 6], n_masks=80, seed=2, activation=lambda o: torch.from_numpy(o).softmax(1))
    torch.testing.assert_close(b.values, a.values, rtol=1e-4, atol=1e-6); assert b.target == [4, 5, 6]
    assert explain(f, x[:1], "rise", n_masks=500, tol=5.).meta["converged"] is True
    with pytest.raises(DataError, match="2 targets for 3"): explain(f, x, "rise", [1, 2], n_masks=5)


# what does not fit

def test_errors_say_what_to_do(digits):
    (x,) = batch(digits); wine = demo_learner("tabular")
    with pytest.raises(TaskError, match="no method 'gradcan'; there are gradcam, gradcam"): digits.explain(x, "gradcan")
    for m in ("gradcam", "rise", "opticam", "centre"):
        with pytest.raises(TaskError, match="explains images.*integrated_gradients"): wine.explain(batch(wine), m)
        with pytest.raises(TaskError, match="explains images"): demo_learner("text").explain(["a joy"], m)
    with pytest.raises(LabelError, match="no class 'ten'"): digits.explain(x, target="ten")
    with pytest.raises(LabelError, match="target 10"): digits.explain(x, target=10)
    with pytest.raises(TaskError, match="looks inside a model"): explain(lambda b: b, x, "gradcam")
    with pytest.raises(InterpKitError): digits.explain("/no/such/file.png")
    with pytest.raises(TypeError): digits.explain(x, "gradcam", nonsense=3)


def test_your_own_method_works_wherever_a_name_does(digits):
    def mine(learn, x, target=None, *, scale=1.):
        with probing(learn, x, target) as p: return Attribution(p.xs[0].mean(1)*scale, None, p.target.classes.tolist(), "mine")
    (x,) = batch(digits); METHODS["mine"] = mine
    try: assert torch.equal(digits.explain(x, "mine", scale=2.).values, x.as_subclass(torch.Tensor).mean(1)*2)
    finally: del METHODS["mine"]
    assert digits.explain(x, mine).method == "mine" and method_name(mine) == "mine"


def test_controls_know_nothing_of_the_model(digits):
    (x,) = batch(digits); other = copy.deepcopy(digits.model)
    for p in other.parameters(): nn.init.normal_(p)
    for f in (random_map, centre_map): assert torch.equal(f(digits, x).values, f(other, x).values)
    assert not torch.equal(random_map(digits, x).values, random_map(digits, x, seed=1).values)
