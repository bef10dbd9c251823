"Build the site, offline: `python docs/build_site.py [OUT]`; a page for every notebook, warnings are errors."
import json, re, shutil, sys, tempfile, warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT/"docs")] # document this checkout
import apidoc

ROOMS = { # folder of nbs/ (or a name for some notebooks that lie in nbs/ itself) -> the question it answers
    "core": "What is everything built on?", "predictions": "What did the model say?", "attribution": "Where does it look?", "internals": "What is inside?",
    "interpret": "What does it get wrong?", "training": "How did it learn?", "features": "Which columns matter?", "data": "Is the data sound?",
    "bias": "Whom does it fail?", "report": "Tell me everything: what next?", "widgets": "Show me", "demo": "What can I try it on?", "launchers": "How is a model opened?", "cli": "What can I run in a terminal?", "doors": "Where do I enter?"}
TOP = dict(files="core", plots="core", findings="core", all="doors", index="tour") # notebooks in nbs/ itself
EXPORTS = (["export"], ["exporti"], ["exports"])
KNOWN = {"default_exp", "export", "exporti", "exports", "hide", "echo:", "eval:"}
LINKABLE = re.compile(r"(?<![`\[])`([A-Za-z_][\w.]*)((?:\([^`()]*\))?)`(?![`\]])")


class SiteError(Exception):
    "The site cannot be built as it stands: the message says what to change."


class Page:
    "One notebook: its room, its module and where it goes."
    def __init__(self, file):
        self.file, self.nb = file, json.loads(file.read_text(encoding="utf-8"))
        self.path = file.relative_to(ROOT/"nbs")
        self.cells = [dict(c, source="".join(c["source"])) for c in self.nb["cells"]]
        first = next((c["source"] for c in self.cells if c["source"].startswith("#| default_exp")), "")
        self.module = first.split()[2] if first else None
        own = self.module or file.stem
        self.room = self.path.parts[0] if len(self.path.parts) > 1 else TOP.get(own)
        if self.room not in ROOMS and self.room != "tour":
            raise SiteError(f"nbs/{self.path} is in no room that the site knows: add {self.path.parts[0]!r} to ROOMS, or a notebook of nbs/ itself to TOP, in docs/build_site.py.")
        self.doc = "tour" if self.room == "tour" else own.replace(".__init__", ".room").replace(".", "/")

    @property
    def package(self): return f"interp_kit.{self.module}".removesuffix(".__init__")
    @property
    def about(self): return next((l[1:].strip() for l in self.cells[0]["source"].splitlines() if l.startswith(">")), "")
    @property
    def short(self): return self.doc.rsplit("/")[-1]


def pages():
    "All notebooks in reading order; raises `SiteError` where two would be one page."
    res = [Page(f) for f in sorted((ROOT/"nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in f.parts]
    docs = [p.doc for p in res]
    twice = {d for d in docs if docs.count(d) > 1}
    if twice: raise SiteError(f"Several notebooks want the page {sorted(twice)}: their default_exp must differ.")
    return res


def public_names(all_pages):
    "name -> link target of what is defined once; names of rooms and modules are left alone."
    import importlib
    found, taken = {}, {p.path.parts[0] for p in all_pages} # `interpret` is a room, and a function of it
    for p in all_pages:
        for c in p.cells:
            if not p.module or directives(c)[:1] not in EXPORTS: continue
            for name, o in apidoc.defined(c["source"], importlib.import_module(p.package)):
                found.setdefault(name, []).append(apidoc.target(p.package, name, o))
                if isinstance(o, type):
                    for k, v in apidoc.methods(o, apidoc.written_in(c["source"], name)): found.setdefault(f"{name}.{k}", []).append(apidoc.target(p.package, f"{name}.{k}", v))
    return {k: v[0] for k, v in found.items() if len(v) == 1 and k not in taken}


def directives(c): return [l[2:].split()[0] for l in c["source"].splitlines() if l.startswith("#|") and l[2:].strip()] if c["cell_type"] == "code" else []


def link_names(text, names):
    "Backticked public names as links, outside of headings, fences, labels and tables of arguments that have links already."
    out, fence = [], False
    for line in text.split("\n"):
        if line.lstrip().startswith("```"): fence = not fence
        plain = fence or line.startswith(("#", "("))
        out.append(line if plain else LINKABLE.sub(lambda m: f"[`{m[1]}{m[2]}`](#{names[m[1]]})" if m[1] in names else m[0], line))
    return "\n".join(out)


def relink(text, where, docs):
    "Links of a file at `where` (from the root) to notebooks and Markdown files of the repository as links between pages."
    here = docs.get(where, where)
    def one(m):
        target = (ROOT/where).parent.joinpath(m[1]).resolve()
        name = str(target.relative_to(ROOT)) if target.is_relative_to(ROOT) else ""
        if name in docs: return f"](/{docs[name]}{m[2] or ''})"
        if not target.exists(): raise SiteError(f"{where} links to {m[1]}, which does not exist.")
        return m[0]
    return re.sub(r"\]\((?!https?:|#|/)([^)\s#]+\.(?:ipynb|md))(#[^)]*)?\)", one, text)


def markdown(source, **metadata): return dict(cell_type="markdown", source=source, metadata=metadata)


def level_of(text, before):
    "Level of the last heading up to the end of `text`."
    found = re.findall(r"(?m)^(#{1,6}) ", re.sub(r"(?ms)^```.*?^```", "", text))
    return len(found[-1]) if found else before


def shown(c):
    "A code cell as it is shown: without its directives, outputs that need no script."
    c = dict(c, source="\n".join(l for l in c["source"].split("\n") if not l.startswith("#|")).strip("\n"), metadata=dict(c["metadata"]), execution_count=None)
    for o in c["outputs"]:
        o.setdefault("metadata", {}) if o["output_type"] != "stream" else None
        for kind in ("application/vnd.jupyter.widget-view+json", "text/latex"):
            if len(o.get("data", {})) > 1: o["data"].pop(kind, None)
    return c


def exported(c, page, level):
    "An exported cell: what it defines, then its source, folded."
    c = shown(c)
    said = apidoc.describe(c["source"], page.package, min(level + 1, 5))
    only_imports = not re.search(r"(?m)^(?!import|from|if TYPE_CHECKING|#|\s|\)|$)", c["source"])
    c["metadata"].update(tags=["hide-input"], mystnb=dict(code_prompt_show="Source", code_prompt_hide="Source"))
    return [markdown(said)]*bool(said) + [c]*(not only_imports)


def cells_of(page, names, docs):
    "The cells of the page of a notebook."
    level, res = 1, []
    for i, c in enumerate(page.cells):
        said = directives(c)
        odd = set(said) - KNOWN
        if odd: raise SiteError(f"nbs/{page.path}: the site does not know the directive {sorted(odd)[0]!r}; say in docs/build_site.py what it does to a page.")
        if c["cell_type"] == "markdown":
            level = level_of(c["source"], level)
            if i == 0 and page.room == "tour": c["source"] = c["source"].replace("# interp_kit", "# Five minutes with a learner", 1)
            text = link_names(relink(c["source"], f"nbs/{page.path}", docs), names)
            if i == 0 and page.module: text += f"\n\n<p class='where'><code>{page.package}</code> · source: <code>nbs/{page.path}</code></p>"
            res.append(markdown(text))
        elif c["cell_type"] == "raw" or said[:1] == ["default_exp"] or "hide" in said: continue
        elif said[:1] in EXPORTS: res += [dict(o, source=link_names(o["source"], names)) if o["cell_type"] == "markdown" else o for o in exported(c, page, level)]
        else:
            c = shown(c)
            if "echo:" in said: c["metadata"]["tags"] = ["remove-input"]
            res.append(c)
    return res


def write_notebook(page, src, names, docs):
    cells = [dict(c, id=f"c{i}") for i, c in enumerate(cells_of(page, names, docs))]
    nb = dict(cells=cells, metadata=dict(language_info=dict(name="python")), nbformat=4, nbformat_minor=5)
    out = src/f"{page.doc}.ipynb"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(nb), encoding="utf-8")


def toctree(entries, caption=""):
    return "\n".join(["```{toctree}", ":hidden:", *([f":caption: {caption}"] if caption else []), "", *entries, "```"])


def write_room(room, members, src):
    "The page of a room: its question, and its chapters with their own first sentences."
    said = [f"# {ROOMS[room]}", f"`interp_kit.{room}`" if room == members[0].path.parts[0] else "", *(f"- [{p.short}](/{p.doc}): {p.about}" for p in members)]
    (src/"rooms").mkdir(exist_ok=True)
    (src/f"rooms/{room}.md").write_text("\n\n".join([said[0], said[1], "\n".join(said[2:]), toctree([f"{p.short} </{p.doc}>" for p in members])]), encoding="utf-8")


def write_sources(src):
    "All that Sphinx reads, in the folder `src`."
    shutil.copytree(ROOT/"docs", src, ignore=shutil.ignore_patterns("_build", "__pycache__", "*.py", "readme"))
    for f in ("docs/conf.py", "CONTRIBUTING.md"): shutil.copy(ROOT/f, src)
    every = pages()
    docs = {f"nbs/{p.path}": p.doc for p in every} | {f"docs/{f.relative_to(src)}": str(f.relative_to(src).with_suffix("")) for f in src.rglob("*.md")} | {"CONTRIBUTING.md": "CONTRIBUTING"}
    names = public_names(every)
    for p in every: write_notebook(p, src, names, docs)
    rooms = {r: m for r in ROOMS if (m := [p for p in every if p.room == r])}
    for r, m in rooms.items(): write_room(r, m, src)
    for f in [*src.glob("guides/*.md"), *src.glob("decisions/*.md"), src/"index.md", src/"CONTRIBUTING.md"]:
        where = f"docs/{f.relative_to(src)}" if f.name != "CONTRIBUTING.md" else f.name
        f.write_text(link_names(relink(f.read_text(encoding="utf-8"), where, docs), names), encoding="utf-8")
    index = src/"index.md"
    listed = "\n".join(f"- [{ROOMS[r]}](/rooms/{r})" for r in rooms) + "\n\n" + toctree([f"rooms/{r}" for r in rooms], "Rooms, by question")
    index.write_text(index.read_text(encoding="utf-8").replace("<!-- rooms -->", listed), encoding="utf-8")
    return every


def replace(out, new):
    "Put the built site where an older one was; raises `SiteError` for a folder that holds something else."
    if out.exists() and any(out.iterdir()) and not (out/"searchindex.js").exists(): raise SiteError(f"{out} is not empty and holds no site: name another folder.")
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(new, out)


def build(out):
    "Build the site into `out`; returns how many notebooks have a page."
    from sphinx.cmd.build import build_main
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        every = write_sources(tmp/"src")
        if build_main(["-b", "html", "-W", "--keep-going", "-q", "-d", str(tmp/"trees"), str(tmp/"src"), str(tmp/"html")]): raise SiteError("Sphinx had something to say, see above.")
        missing = [str(p.path) for p in every if not (tmp/"html"/f"{p.doc}.html").exists()]
        if missing: raise SiteError(f"These notebooks have no page: {', '.join(missing)}.")
        replace(out, tmp/"html")
    return len(every)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT/"docs/_build/html").resolve()
    try: print(f"{build(out)} notebooks have their page: {out}/index.html")
    except SiteError as e: sys.exit(str(e))
