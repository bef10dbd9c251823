"interp-kit explain and interp-kit model as a person runs them: real processes."
import json, os, shutil, signal, subprocess, sys
from pathlib import Path
import numpy as np, pytest, torch
from torch import nn
from PIL import Image
from helpers import needs

ROOT = Path(__file__).parents[2]
MAIN = "import sys; from interp_kit.cli import main; sys.exit(main())"
STOPPED = """
import os, signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler) # a shell has what it runs in the background ignore Ctrl-C
write = sys.stdout.write
def watched(text):
    "Ctrl-C arrives when the second target's first results stand, however slow the machine is."
    n = write(text)
    if "so far" in text and Path("stopped/b_one.rise.json").exists(): os.kill(os.getpid(), signal.SIGINT)
    return n
sys.stdout.write = watched
from interp_kit.cli import main
sys.exit(main())
"""


def strict(path): return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))


@pytest.fixture(scope="module")
def place(tmp_path_factory, digits):
    "Models and pictures; the class names of the learner include one that is not ASCII."
    d = tmp_path_factory.mktemp("explain")
    digits.export(d/"digits.pkl")
    from torchvision.models import resnet18
    torch.manual_seed(0); net = resnet18(num_classes=3).eval()
    torch.save(dict(model=net.state_dict()), d/"r18.pth"); torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()).save(str(d/"script.pt"))
    from interp_kit.demo import digit_folder, digit_scenes
    photos = d/"photos"; (photos/"a").mkdir(parents=True); (photos/"b").mkdir()
    seven, three = sorted((digit_folder()/"7").iterdir())[5], sorted((digit_folder()/"3").iterdir())[5]
    shutil.copy(seven, photos/"a"/"one.png"); shutil.copy(three, photos/"b"/"one.png"); shutil.copy(three, photos/"größe 三.png")
    (photos/"torn.png").write_bytes(seven.read_bytes()[:100]); (photos/"readme.md").write_text("no picture")
    scene = (digit_scenes(1, 3, size=64, max_digits=3)[0][0].permute(1, 2, 0).numpy()*255).astype(np.uint8)
    Image.fromarray(scene[:, :48]).save(d/"scene.png")
    return d


def run(place, *args, cwd=None, **env):
    return subprocess.run([sys.executable, "-c", MAIN, *map(str, args)], capture_output=True, text=True, cwd=cwd or place, timeout=300, stdin=subprocess.DEVNULL, encoding="utf-8",
                          env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONIOENCODING": "utf-8", "INTERP_KIT_CONFIG": str(place/"config"), **env})


MANY = """
import contextlib, io, json, sys
from interp_kit.cli import main
def one(argv):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try: code = main(argv)
        except SystemExit as e: code = e.code
    return [code, out.getvalue(), err.getvalue()]
res = [one(a) for a in json.loads(sys.argv[1])]
print(json.dumps(res))
"""


def run_many(place, *commands, cwd=None):
    "Several commands, one after the other in one process: (exit code, output, errors) of each."
    r = subprocess.run([sys.executable, "-c", MANY, json.dumps([list(map(str, c)) for c in commands])], capture_output=True, text=True, cwd=cwd or place, timeout=300, encoding="utf-8",
                       env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONIOENCODING": "utf-8", "INTERP_KIT_CONFIG": str(place/"config")})
    assert r.returncode == 0, r.stderr
    return [subprocess.CompletedProcess(c, *said) for c, said in zip(commands, json.loads(r.stdout.splitlines()[-1]))]


def lines(text): return [l for l in text.splitlines() if l.strip()]
def without_fonts(text): return [l for l in lines(text) if not l.startswith("interp-kit: note: No installed font has ")]


def test_a_folder_with_faults(place):
    "A corrupt picture, a class that there is not, a missing target: a line each, the others are explained, and the exit code is 2."
    out = place/"out"
    r = run(place, "explain", "-m", "digits.pkl", "--trust", "-o", out, "-t", "photos", "gone.png", "--target-class", "3", "zebra", "rise", "-s", "200", "-b", "64", "--mw", "4", "--mh", "5", "--prob", ".6")
    assert r.returncode == 2, r.stderr
    said = without_fonts(r.stderr); assert len(said) == 3 and all(l.startswith("interp-kit: ") for l in said), r.stderr
    assert "gone.png" in said[0] and "'zebra' is not a class" in r.stderr and "torn.png cannot be read as an image" in r.stderr
    assert "3 targets explained, 3 errors" in r.stdout
    assert {f.name for f in out.iterdir()} == {f"{n}.rise.{e}" for n in ("one", "b_one", "größe_三") for e in ("3.png", "npz", "json")}
    about = strict(out/"b_one.rise.json"); o, = about["outputs"]
    assert about["target"] == str((place/"photos"/"b"/"one.png").resolve()) and about["method"] == "rise" and about["complete"] and about["masks_used"] == 200
    assert o["class"] == "3" and o["class_index"] == 3 and .5 < o["score"] <= 1 and about["convergence"]["stderr"][0] > 0 and about["files"] == ["b_one.rise.3.png", "b_one.rise.npz"]
    assert about["model"]["format"] == "fastai export" and "own transforms" in about["preprocessing"]["said_by"] and about["details"]["cells"] == [5, 4] and about["options"]["prob"] == .6
    with np.load(out/"b_one.rise.npz", allow_pickle=False) as z: assert z["maps"].shape == (1, 32, 32) and z["maps"].dtype == np.float32 and z["classes"].tolist() == ["3"] and abs(z["scores"][0] - o["score"]) < 1e-6
    picture = np.asarray(Image.open(out/"b_one.rise.3.png").convert("RGB")).astype(int)
    assert picture.shape[1] > 1.3*picture.shape[0] and picture.shape[0] > 250, "two panels side by side, large also for 32 pixels"
    half = picture.shape[1]//2; colourful = lambda a: (np.ptp(a, 2) > 40).mean()
    assert colourful(picture[:, half:]) > .02 > colourful(picture[:, :half]), "the map lies on the right picture only"


def test_maps_are_those_of_the_library(place, digits):
    "What the process wrote equals RISE asked here; a class may be named twice."
    from interp_kit.attribution.rise import RISE
    about = strict(place/"out"/"one.rise.json")
    want = RISE(digits, n_masks=200, cell=(5, 4), p=.6, batch_size=64).explain(about["target"], 3)
    with np.load(place/"out"/"one.rise.npz") as z: np.testing.assert_allclose(z["maps"], want.heatmap().numpy(), atol=1e-4*np.abs(z["maps"]).max())


def test_one_line_and_2(place):
    "A pickle without trust, a missing file, weights without architecture, a name that nobody gave."
    cases = {"digits.pkl": "--trust", "gone.pt": "There is no model file gone.pt", "r18.pth": "add --arch", "nobody": "neither a file nor a name"}
    for r, said in zip(run_many(place, *[("explain", "-m", m, "-o", "none", "-t", "photos", "rise") for m in cases]), cases.values()):
        assert r.returncode == 2 and len(lines(r.stderr)) == 1 and said in r.stderr and "Traceback" not in r.stderr and not (place/"none").exists()
    assert "Traceback" in run(place, "explain", "-m", "gone.pt", "-t", "photos", "--debug", "rise").stderr


def test_onnx_by_name_and_list(place):
    needs("onnx", "onnxruntime")
    from onnx import TensorProto as T, helper as h
    import onnx
    graph = h.make_graph([h.make_node("GlobalAveragePool", ["x"], ["p"]), h.make_node("Flatten", ["p"], ["s"])], "g", [h.make_tensor_value_info("x", T.FLOAT, [1, 3, 16, 24])], [h.make_tensor_value_info("s", T.FLOAT, [1, 3])])
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8), str(place/"mean.onnx"))
    red = np.zeros((32, 48, 3), np.uint8); red[:, 24:, 0] = 255; Image.fromarray(red).save(place/"red.png")
    (place/"list.csv").write_text("label,file\nx,red.png\n", encoding="utf-8"); (place/"names.txt").write_text("rot\nzürich ☃\n青い\n", encoding="utf-8")
    added, r = run_many(place, ("model", "add", "mittel", "--model", place/"mean.onnx", "--classes", place/"names.txt", "--activation", "none"),
                        ("explain", "-m", "mittel", "-o", "onnx out", "-t", place/"list.csv", "rise", "-s", "300", "--classes-to-explain", "all", "--tol", ".9"), cwd=place.parent)
    assert added.returncode == 0 and r.returncode == 0 and not added.stderr and not without_fonts(r.stderr), added.stderr + r.stderr
    out = place.parent/"onnx out"; about = strict(out/"red.rise.json")
    assert [o["class"] for o in about["outputs"]] == ["rot", "zürich ☃", "青い"] and len(list(out.glob("*.png"))) == 3 and about["preprocessing"]["size"] == [16, 24]
    with np.load(out/"red.rise.npz") as z: m = z["maps"][0]; assert m[:, 14:].mean() > m[:, :10].mean(), "red is on the right"
    other, grad, listed, removed, empty, bad = run_many(place, ("explain", "-m", "mean.onnx", "--size", "32", "-t", "red.png", "rise"), ("explain", "-m", "mittel", "-t", "red.png", "gradcam"),
                                                        ("model", "list"), ("model", "remove", "mittel"), ("model", "list"), ("model", "add", "a/b", "--model", "mean.onnx"))
    for r, said in ((other, "takes pictures of 16×24, not of 32×32"), (grad, "needs gradients"), (bad, "cannot name a model")): assert r.returncode == 2 and len(lines(r.stderr)) == 1 and said in r.stderr
    assert "mittel: " in listed.stdout and removed.returncode == 0 and "No model has a name yet" in empty.stdout


def test_characters_without_a_font_are_named_once(place):
    "One note for all pictures, however many targets and results so far; the names of classes are in the JSON all the same."
    names = ",".join(f"{c}\U0010fffd{c}" for c in "abc") # no font has it
    r = run(place, "explain", "saliency", "-m", "script.pt", "--classes", names, "--size", "64", "-o", "odd", "-t", "scene.png", "photos/a/one.png", "--classes-to-explain", "all")
    said = lines(r.stderr); assert r.returncode == 0 and len(said) == 1, r.stderr
    assert said[0].startswith("interp-kit: note: No installed font has U+10FFFD: ") and "Install a font" in said[0] and "Glyph" not in said[0]
    assert [o["class"] for o in strict(place/"odd"/"scene.saliency.json")["outputs"]] == names.split(",") and len(list((place/"odd").glob("*.png"))) == 6


def test_gradients(place):
    "Weights of torchvision by Grad-CAM, TorchScript by the gradients of its input."
    cases = {"gradcam": ("r18.pth", "--arch", "resnet18", "--layer", "layer3"), "ig": ("script.pt", "--steps", "8"), "saliency": ("script.pt",)}
    common = ("--size", "64", "--classes", "a,b,c", "-t", "scene.png", "photos/torn.png")
    for (method, _), r in zip(cases.items(), run_many(place, *[("explain", m, "-m", *more, "-o", f"out_{m}", *common) for m, more in cases.items()])):
        assert r.returncode == 2 and len(lines(r.stderr)) == 1 and "torn.png" in r.stderr, r.stderr
        about = strict(place/f"out_{method}"/f"scene.{method}.json")
        assert about["model"]["activation"] == "softmax" and about["input"] == dict(channels=3, height=64, width=64) and about["picture"] == dict(width=48, height=64) and len(about["outputs"]) == 1
        if method == "ig": assert abs(about["convergence"]["convergence_delta"][0]) < 1
        if method == "gradcam": assert "layer3" in str(about["details"])
        else: assert "default" in about["preprocessing"]["said_by"], "nobody says how pictures of TorchScript are prepared"


def test_a_detector_with_an_interpreter(place):
    "The example launcher, from its own folder: a map for each box, which lies on the box."
    examples = ROOT/"examples"
    model = ("explain", "-m", "detection_launcher:detector", "-t", place/"scene.png", "-o", place/"boxes", "rise")
    r, raw = run_many(place, (*model, "--interpreter", "detection_launcher:process_outputs", "--classes", ",".join("0123456789"), "-s", "300", "--conf", ".3", "--prob", ".7", "--nms", ".5"), (*model, "-s", "9"), cwd=examples)
    assert r.returncode == 0, r.stderr
    assert raw.returncode == 2 and "--interpreter" in raw.stderr and len(lines(raw.stderr)) == 1
    about = strict(place/"boxes"/"scene.rise.json"); assert about["method"] == "drise" and about["model"]["answers"] == "boxes" and len(about["outputs"]) >= 1 and about["masks_used"] == 300
    with np.load(place/"boxes"/"scene.rise.npz") as z: maps, boxes = z["maps"], z["boxes"]
    for m, box, o in zip(maps, boxes, about["outputs"]):
        x0, y0, x1, y1 = np.round(box).astype(int); inside = m[y0:y1, x0:x1].mean()
        assert inside > m.mean() and o["score"] >= .3 and (place/"boxes"/o["overlay"]).exists() and o["overlay"].startswith("scene.rise.0")


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_interrupt_keeps_what_is_finished(place):
    "Ctrl-C in the second target: the first stays whole, of the second the results so far; 130; no half-written file."
    out = place/"stopped"
    p = subprocess.Popen([sys.executable, "-c", STOPPED, "explain", "-m", "digits.pkl", "--trust", "-o", str(out), "-t", "photos/a/one.png", "photos/b/one.png", "rise", "--max-samples", "1500", "--progressive", "--every", "500"],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=place, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"})
    _, err = p.communicate(timeout=600)
    assert p.returncode == 130 and len(lines(err)) == 1 and "interrupted at one.png: 1 target done" in err and "Traceback" not in err
    about = {f.name: strict(f) for f in out.glob("*.json")}
    assert about["one.rise.json"]["complete"] and about["one.rise.json"]["masks_used"] == 1500
    assert not about["b_one.rise.json"]["complete"] and 500 <= about["b_one.rise.json"]["masks_used"] < 1500
    assert not list(out.glob("*.tmp")) and all((out/f).exists() for a in about.values() for f in a["files"])


def test_help_stays_light():
    code = f"import sys\nfrom interp_kit.cli import main\ntry: main(['explain', 'rise', '--help'])\nexcept SystemExit as e: assert e.code == 0\nassert not {{'torch', 'fastai', 'numpy', 'matplotlib', 'rich'}} & set(sys.modules)"
    r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT); assert r.returncode == 0, r.stderr
    assert all(o in r.stdout for o in ("--max-samples", "--progressive", "--mw", "--mh", "--prob", "--iou", "--nms", "--conf", "-b", "--interpreter", "--target-class"))
