"Models from every kind of file answer as the model itself does; what cannot be opened says why."
import json, os, pickle, subprocess, sys, types
import numpy as np, pytest, torch, torchvision
from torch import nn
from helpers import needs
from interp_kit.core import DataError, InterpKitError, ModelError, NotFoundError, TaskError
from interp_kit.launchers import add_model, load_model, named_models, remove_model


ZOO = """
import torch
from torch import nn
from test_small import Small
def build(): return Small()
def train_mode(): return Small().train()
def logits(batch): return torch.stack([batch.mean((1, 2, 3)), -batch.mean((1, 2, 3))], 1)
def gone(): import nothing_of_this_name
def halves(inputs, outputs): return torch.as_tensor(outputs).softmax(1)/2
def one_missing(inputs, outputs): return [[]]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder of one network in every form, and a module that builds it."
    d = tmp_path_factory.mktemp("models")
    source = f"from torch import nn\nclass Small(nn.Sequential):\n    def __init__(self, n=4): super().__init__(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, n))\n"
    (d/"test_small.py").write_text(source); (d/"zoo_of_tests.py").write_text(ZOO)
    sys.path.insert(0, str(d)); torch.manual_seed(0)
    from test_small import Small as Net
    net = Net().eval(); net[1].running_mean.uniform_(-1, 1)
    state = net.state_dict()
    torch.save(state, d/"bare.pt"); torch.save({"model_state": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, d/"under.pth")
    torch.save({"state_dict": {f"_orig_mod.{k}": v.half() if v.is_floating_point() else v for k, v in state.items()}}, d/"half.ckpt")
    torch.save(net, d/"whole.pkl"); torch.jit.script(net).save(str(d/"script.pt"))
    yield d, net
    sys.path.remove(str(d)); sys.modules.pop("test_small", None); sys.modules.pop("zoo_of_tests", None)


@pytest.mark.parametrize("file,options", [("bare.pt", dict(arch="zoo_of_tests:build")), ("under.pth", dict(arch="zoo_of_tests:train_mode")), ("half.ckpt", dict(arch="zoo_of_tests:build")),
                                          ("whole.pkl", dict(trust=True)), ("script.pt", {})])
def test_every_form_answers_as_the_model_does(place, file, options):
    d, net = place; x = torch.rand(5, 3, 20, 30)
    launcher = load_model(d/file, **options)
    with torch.no_grad(): want = net(x).softmax(1)
    tol = 2e-3 if file == "half.ckpt" else 1e-6
    with torch.inference_mode(): got = launcher(x)
    torch.testing.assert_close(got, want, atol=tol, rtol=0); torch.testing.assert_close(launcher(x), want, atol=tol, rtol=0)
    assert launcher.is_detector is False and launcher.activation == "softmax" and not launcher.model.training
    json.dumps(launcher.to_dict(), allow_nan=False)


def test_a_fastai_save_with_optimizer_state(place, digits, tmp_path):
    "learn.save keeps weights under 'model'; after a fit also the optimizer's state."
    (tmp_path/"builder_of_tests.py").write_text("from interp_kit.demo.learners import _small_cnn\ndef build(): return _small_cnn(10)\n")
    from fastai.optimizer import Adam
    learn = digits; opt = Adam(learn.model.parameters(), lr=1e-3)
    torch.save(dict(model=learn.model.state_dict(), opt=opt.state_dict()), tmp_path/"saved.pth")
    launcher = load_model(tmp_path/"saved.pth", arch="builder_of_tests:build", search=str(tmp_path), size=32)
    x = learn.dls.valid.one_batch()[0][:4]
    with torch.no_grad(): want = learn.model.eval()(x).softmax(1)
    torch.testing.assert_close(launcher(torch.Tensor(x)), want.as_subclass(torch.Tensor).cpu(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("arch", ["squeezenet1_1", "mnasnet0_5", "googlenet", "fasterrcnn_mobilenet_v3_large_320_fpn", "lraspp_mobilenet_v3_large"])
def test_the_number_of_classes_is_read_from_the_weights(arch, tmp_path, recwarn):
    "Also for heads that are convolutions, auxiliary heads, and detectors whose last layer has four numbers a class; nothing is downloaded."
    make = torchvision.models.get_model_builder(arch)
    more = dict(aux_logits=False, init_weights=False) if arch == "googlenet" else dict(weights_backbone=None) if arch.startswith(("faster", "lraspp")) else {}
    net = make(weights=None, num_classes=7, **more).eval(); torch.save(net.state_dict(), tmp_path/"w.pt")
    state = net.state_dict(); wrapped = type(state)((f"module.{k}", v) for k, v in state.items()); wrapped._metadata = {f"module.{k}".rstrip("."): v for k, v in state._metadata.items()}
    if arch.startswith("mnas"): torch.save(wrapped, tmp_path/"w.pt") # of which the version counts
    launcher = load_model(tmp_path/"w.pt", arch=arch)
    got = dict(launcher.model.state_dict())
    assert all(torch.equal(got[k], v) for k, v in net.state_dict().items()) and len(got) == len(net.state_dict())
    if arch.startswith("faster"):
        assert launcher.prepare.size is None and launcher.prepare.mean is None
        assert set(launcher(torch.rand(1, 3, 64, 64))[0]) == {"boxes", "labels", "scores"} and launcher.is_detector
    elif arch.startswith("lraspp"):
        with pytest.raises(TaskError, match="--interpreter"): launcher(torch.rand(1, 3, 64, 64))
    else: assert launcher(torch.rand(2, 3, 64, 64)).shape == (2, 7) and launcher.prepare.size == (224, 224) and launcher.prepare.mean == [.485, .456, .406]


def test_names_of_imagenet_only_for_as_many_outputs(tmp_path):
    for n, named in ((1000, True), (12, False)):
        torch.save(torchvision.models.shufflenet_v2_x0_5(num_classes=n).state_dict(), tmp_path/"w.pt")
        assert (load_model(tmp_path/"w.pt", arch="shufflenet_v2_x0_5").classes is not None) == named


def test_a_pickle_is_not_opened_without_trust(tmp_path):
    class Trap:
        def __reduce__(self): return (os.mkdir, (str(tmp_path/"sprung"),))
    for protocol, name in ((2, "a.pkl"), (4, "b.pth")):
        (tmp_path/name).write_bytes(pickle.dumps(dict(model=Trap()), protocol)); torch.save(dict(model=Trap()), tmp_path/f"zip_{name}")
        for file in (name, f"zip_{name}"):
            with pytest.raises(InterpKitError): load_model(tmp_path/file)
    assert not (tmp_path/"sprung").exists()
    with pytest.raises(ModelError, match="add --trust .*runs|runs whatever code.*--trust"): load_model(tmp_path/"zip_a.pkl")


def onnx_conv(path, side=16, batch="n", last=False):
    "The same convolution and mean as torch computes below, as a graph."
    from onnx import TensorProto as T, helper as h, numpy_helper as nh
    import onnx
    w = np.random.default_rng(0).normal(size=(5, 3, 3, 3)).astype(np.float32)
    nodes = ([h.make_node("Transpose", ["x"], ["y"], perm=[0, 3, 1, 2])] if last else []) + [h.make_node("Conv", ["y" if last else "x", "w"], ["c"]), h.make_node("GlobalAveragePool", ["c"], ["p"]), h.make_node("Flatten", ["p"], ["out"])]
    shape = [batch, side, side, 3] if last else [batch, 3, side, side]
    graph = h.make_graph(nodes, "g", [h.make_tensor_value_info("x", T.FLOAT, shape)], [h.make_tensor_value_info("out", T.FLOAT, [batch, 5])], [nh.from_array(w, "w")])
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8), str(path))
    return lambda x: nn.functional.conv2d(x, torch.from_numpy(w)).mean((2, 3))


@pytest.mark.parametrize("batch,last", [("n", False), (1, False), (4, False), ("n", True)])
def test_onnx_equals_torch_whatever_its_batch_and_order(tmp_path, batch, last):
    needs("onnx", "onnxruntime")
    f = onnx_conv(tmp_path/"m.onnx", batch=batch, last=last); x = torch.rand(6, 3, 16, 16)
    launcher = load_model(tmp_path/"m.onnx")
    torch.testing.assert_close(launcher(x), f(x).softmax(1), atol=1e-5, rtol=0)
    assert launcher.prepare.size == (16, 16) and launcher.model is None
    with pytest.raises(DataError, match="takes pictures of 16×16, not of 20×16"): load_model(tmp_path/"m.onnx", size="20x16")
    with pytest.raises(TaskError, match="needs gradients"): launcher.for_gradients("ig")


def test_onnx_of_a_free_size_is_told_its_own(tmp_path):
    needs("onnx", "onnxruntime")
    f = onnx_conv(tmp_path/"m.onnx", side="s"); x = torch.rand(2, 3, 40, 40)
    assert load_model(tmp_path/"m.onnx").prepare.size == (224, 224) and load_model(tmp_path/"m.onnx", size="original").prepare.size is None
    torch.testing.assert_close(load_model(tmp_path/"m.onnx", activation="none")(x), f(x), atol=1e-5, rtol=0)


def test_without_onnxruntime_the_error_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path/"m.onnx").write_bytes(b"\x08\x08"); monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"pip install 'interp_kit\[onnx\]'"): load_model(tmp_path/"m.onnx")


def test_an_interpreter_comes_between(place):
    x = torch.rand(3, 3, 8, 8)
    launcher = load_model("zoo_of_tests:logits", interpreter="zoo_of_tests:halves")
    m = x.mean((1, 2, 3)); torch.testing.assert_close(launcher(x), torch.stack([m, -m], 1).softmax(1)/2)
    with pytest.raises(DataError, match="1 things for 3 images"): load_model("zoo_of_tests:logits", interpreter="zoo_of_tests:one_missing")(x)
    with pytest.raises(ModelError, match="interpreter .*failed: ZeroDivisionError"): load_model("zoo_of_tests:logits", interpreter=lambda i, o: 1/0)(x)


def test_documented_process_outputs(place):
    "Annotations of another library, by their shape: labels with scores, boxes with x, y, w, h."
    def labels(inputs, outputs):
        return [[types.SimpleNamespace(label=i, attributes={"score": float(c)}) for i, c in enumerate(row)] for row in outputs.softmax(1)]
    def boxes(inputs, outputs):
        h, w = inputs.shape[-2:]
        return [[types.SimpleNamespace(x=0, y=1, w=w/2, h=h/2, label=1, attributes={"score": .25})] for _ in outputs]
    x = torch.rand(2, 3, 8, 12)
    torch.testing.assert_close(load_model("zoo_of_tests:logits", interpreter=labels)(x), load_model("zoo_of_tests:logits")(x))
    found = load_model("zoo_of_tests:logits", interpreter=boxes, classes=["a", "b"])(x)
    assert found[0]["boxes"].tolist() == [[0, 1, 6, 5]] and found[1]["labels"].tolist() == [1] and found[0]["scores"].tolist() == [.25]


def test_a_learner_trained_from_a_table_reads_files(tmp_path):
    "Its items are rows of a frame; a path is taken all the same, and gets the same input."
    from interp_kit.demo import demo_learner
    learn = demo_learner("multilabel"); learn.export(tmp_path/"m.pkl")
    launcher = load_model(tmp_path/"m.pkl", trust=True)
    row = learn.dls.valid_ds.items.iloc[0]
    from interp_kit.demo.pictures import _collage_folder
    x, picture = launcher.read(_collage_folder()/row["file"])
    want = learn.dls.test_dl(learn.dls.valid_ds.items.iloc[:1]).one_batch()[0]
    torch.testing.assert_close(x, want[0].as_subclass(torch.Tensor).cpu()); assert picture.size == tuple(x.shape[:0:-1])
    got = launcher(x[None]); assert 0 <= got.min() and got.max() <= 1 and abs(float(got.sum()) - 1) > 1e-3, "each label by itself"


def test_names_are_kept_for_other_folders(tmp_path, monkeypatch, place):
    d, net = place
    monkeypatch.setenv("INTERP_KIT_CONFIG", str(tmp_path/"config")); monkeypatch.chdir(d)
    add_model("net", dict(model="bare.pt", arch="zoo_of_tests:build", classes="a,b,c,d")); add_model("whole", dict(model="whole.pkl", trust=False))
    monkeypatch.chdir(tmp_path)
    launcher = load_model("net"); assert launcher.classes == list("abcd") and launcher.to_dict()["model"]["name"] == "net"
    with pytest.raises(ModelError, match="--trust"): load_model("whole")
    assert load_model("whole", trust=True).format == "pickled module"
    with pytest.raises(DataError, match="already"): add_model("net", dict(model=str(d/"bare.pt")))
    remove_model("net"); assert list(named_models()) == ["whole"] and (d/"bare.pt").exists()
    with pytest.raises(NotFoundError, match="Models with a name: whole"): load_model("net")


@pytest.mark.parametrize("name,options,said", [("gone.pt", {}, "There is no model file"), ("bare.pt", {}, "add --arch NAME"), ("bare.pt", dict(arch="resnet18"), "do not fit resnet18"),
                                               ("zoo_of_tests:gone", {}, "No module named 'nothing_of_this_name'"), ("bare.pt", dict(arch="resnet0"), "Did you mean resnet"), ("script.pt", dict(activation="relu"), "no activation 'relu'"),
                                               ("script.pt", dict(size="big"), "is no size"), ("cut.pt", {}, "damaged"), ("words.pt", {}, "not a model file")])
def test_what_cannot_be_opened_says_why_in_a_line(place, name, options, said):
    d, _ = place
    (d/"cut.pt").write_bytes((d/"bare.pt").read_bytes()[:-300]); (d/"words.pt").write_text("hello")
    with pytest.raises(InterpKitError) as e: load_model(name if ":" in name else d/name, **options)
    assert said in str(e.value) and "\n" not in str(e.value)
