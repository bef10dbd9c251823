"Every guide does what it says: its code runs in order, prints what is shown and draws what is pictured."
import re
import importlib.util
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT/"docs/guides").glob("*.md"))


def load():
    spec = importlib.util.spec_from_file_location("guides", ROOT/"docs/guides.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


guides = load()


@pytest.mark.parametrize("guide", GUIDES, ids=lambda f: f.stem)
def test_guide(guide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sum(kind == "python" for kind, *_ in guides.blocks(guide.read_text())) > 3
    guides.run(guide)


def test_no_picture_is_left_over():
    shown = {m["picture"] for g in GUIDES for kind, m, _ in guides.blocks(g.read_text()) if kind == "picture"}
    shown |= {p for g in GUIDES for p in re.findall(r"\]\(\./(pictures/[^)]+)\)", g.read_text())} # drawn by a benchmark
    assert {f"pictures/{f.name}" for f in (ROOT/"docs/guides/pictures").iterdir()} == shown


def guide(tmp_path, text):
    file = tmp_path/"g.md"; file.write_text(text)
    return file


def test_the_runner_finds_what_is_not_so(tmp_path):
    run = lambda text, **kw: guides.run(guide(tmp_path, text), **kw)
    run("```python\nx = 1\n```\nprose\n```python\nprint('a', x + .001)\n```\n```text\na  1.0\n```\n")
    for text, said in [("```python\nprint(1)\n```\n```text\n2\n```\n", "its code prints\n1"),
                       ("```python\nprint('no')\n```\n```text\nyes\n```\n", "its code prints\nno"),
                       ("```python\nprint(1)\n```\n", "line 1: prints what the guide does not show"),
                       ("a\n```python\n1/0\n```\n", "line 2: ZeroDivisionError"),
                       ("```text\nnever printed\n```\n", "line 1"),
                       ("```sh\nls\n```\n", "not 'sh'"),
                       ("```python skip\n1\n```\n", "always run"),
                       ("```python\n1\n```\n![x](pictures/x.png)\n", "nothing above draws x.png")]:
        with pytest.raises(guides.GuideError) as e: run(text)
        assert said in str(e.value), text


def test_numbers_are_held_loosely_only_where_a_guide_says_so():
    assert guides.agree("acc 0.907 of 718", "acc  0.908 of 718") and not guides.agree("acc 0.907", "acc 0.850")
    assert guides.agree("acc 0.907 of 18", "acc 0.85 of 30", about=True) and not guides.agree("18 of 73", "40 of 73", about=True)
    assert not guides.agree("nan", "0.5", about=True) and not guides.agree("1 2", "1", about=True)


def test_writing_puts_in_what_is_printed_and_drawn(tmp_path):
    g = guide(tmp_path, "```python\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]); print(6*7)\n```\n```text about\n?\n```\nand\n![a line](pictures/line.png)\n")
    text = guides.run(g, write=True)
    assert "```text about\n42\n```" in text and (tmp_path/"pictures/line.png").stat().st_size > 500
    g.write_text(text); guides.run(g)
