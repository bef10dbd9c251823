"Run the guides: `python docs/guides.py [NAME …]` runs all their code and writes anew what it prints and draws; the tests run it and compare."
import contextlib, io, os, re, sys, tempfile, warnings
from pathlib import Path

GUIDES = Path(__file__).resolve().parent/"guides"
BLOCK = re.compile(r"^```(?P<kind>\S*)[ ]*(?P<how>[^\n]*)\n(?P<body>.*?)^```[ ]*$|^!\[[^\]]*\]\((?P<picture>pictures/[^)]+)\)[ ]*$", re.M | re.S)
NUMBER = re.compile(r"(?<![A-Za-z_\d])[-−+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?|\bnan\b|\bNaN\b")


class GuideError(Exception):
    "A guide does not do what it says."


def blocks(text):
    "Matches of every fence and picture, in order; raises `GuideError` for a fence that is neither code to run nor what it printed."
    for m in BLOCK.finditer(text):
        line, kind = text[:m.start()].count("\n") + 1, "picture" if m["picture"] else m["kind"]
        if kind not in ("python", "text", "picture"): raise GuideError(f"line {line}: a fence is python, or text that the python above it prints; not {kind!r}.")
        if kind == "python" and m["how"]: raise GuideError(f"line {line}: python takes no option, it is always run.")
        if kind == "text" and m["how"] not in ("", "about"): raise GuideError(f"line {line}: text takes the option 'about' or none, not {m['how']!r}.")
        yield kind, m, line


def words(text): return NUMBER.sub("#", text).split()
def numbers(text): return [float(n.replace(",", "").replace("−", "-")) for n in NUMBER.findall(text)]


def agree(said, printed, about=False):
    """Whether the words are the same and each number is close: within 2 %, or 1 in the third decimal.

    With `about`, for what depends on the processor (a model that was trained here): within a factor of two, or 0.1."""
    a, b = numbers(said), numbers(printed)
    if words(said) != words(printed) or len(a) != len(b): return False
    near = (lambda x, y: abs(x - y) <= max(.1, abs(x)/2, abs(y)/2)) if about else (lambda x, y: abs(x - y) <= max(.02*abs(x), .0011))
    return all(x == y or x != x and y != y or near(x, y) for x, y in zip(a, b))


def execute(code, space, name, line):
    "What a fence prints, without progress bars; raises `GuideError` if it fails."
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            exec(compile("\n"*line + code, name, "exec"), space)
    except Exception as e: raise GuideError(f"the fence in line {line}: {type(e).__name__}: {e}") from e
    return "\n".join(l.rstrip() for l in re.sub(r"[^\n]*\r", "", out.getvalue()).strip("\n").split("\n"))


def run(guide, write=False):
    """Execute the guide's fences in order, in one namespace and the current folder; a text fence is what the fence above prints, a picture what it draws.

    Raises `GuideError` with the line where this is not so; with `write` the texts and pictures are written instead of compared."""
    import matplotlib.pyplot as plt
    text, space = guide.read_text(encoding="utf-8"), dict(__name__="__main__")
    new, done, printed, at = [], 0, "", 0
    for kind, m, line in [*blocks(text), ("end", None, 0)]:
        if kind != "text" and printed and (kind != "picture"): raise GuideError(f"line {at}: prints what the guide does not show:\n{printed}")
        if kind == "python":
            plt.close("all")
            printed, at = execute(m["body"], space, str(guide), line), line
        if kind == "text":
            if not write and not agree(m["body"], printed, m["how"] == "about"): raise GuideError(f"line {line}: the guide says\n{m['body']}\nbut its code prints\n{printed}")
            new += [text[done:m.start("body")], printed + "\n"]; done, printed = m.end("body"), ""
        if kind == "picture": keep_picture(guide.parent/m["picture"], line, plt, write)
    plt.close("all")
    return "".join([*new, text[done:]])


def keep_picture(file, line, plt, write):
    if not plt.get_fignums(): raise GuideError(f"line {line}: nothing above draws {file.name}.")
    if not write and not file.exists(): raise GuideError(f"line {line}: {file} is missing; python docs/guides.py makes it.")
    if not write: return
    file.parent.mkdir(exist_ok=True)
    plt.gcf().savefig(file, dpi=80, bbox_inches="tight", metadata=dict(Software=None))


@contextlib.contextmanager
def inside(folder):
    "The current folder is `folder` inside the block."
    before = os.getcwd(); os.chdir(folder)
    try: yield
    finally: os.chdir(before)


def main(names):
    import matplotlib; matplotlib.use("agg")
    sys.path.insert(0, str(GUIDES.parents[1]))
    for guide in sorted(GUIDES.glob("*.md")):
        if names and guide.stem not in names: continue
        with tempfile.TemporaryDirectory() as tmp, inside(tmp): text = run(guide, write=True)
        guide.write_text(text, encoding="utf-8")
        print(f"{guide.stem} is written")


if __name__ == "__main__":
    try: main(sys.argv[1:])
    except GuideError as e: sys.exit(str(e))
