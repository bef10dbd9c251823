"The site builds without a warning and offline, has a page for every notebook and every public name, and no link leads nowhere."
import importlib.util, json, re, subprocess, sys, urllib.parse
from html.parser import HTMLParser
from pathlib import Path
import pytest
from helpers import needs

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(f.relative_to(ROOT) for f in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in f.parts)
LOADING = dict(script="src", img="src", iframe="src", source="src", video="src", audio="src", embed="src", object="data", link="href")


class Html(HTMLParser):
    "What a page loads, links to, names, and says."
    def __init__(self, file):
        super().__init__()
        self.loads, self.links, self.ids, self.text = [], [], set(), []
        self.feed(file.read_text(encoding="utf-8"))
    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if "id" in attrs: self.ids.add(attrs["id"])
        if attrs.get(LOADING.get(tag)) and attrs.get("rel") not in ("next", "prev", "index", "search", "author", "canonical"): self.loads.append(attrs[LOADING[tag]])
        if tag == "a" and attrs.get("href"): self.links.append(attrs["href"])
    def handle_data(self, data): self.text.append(data)


def state_of_tree(): return {f: f.stat().st_mtime_ns for d in ("docs", "nbs") for f in (ROOT/d).rglob("*") if "__pycache__" not in f.parts}


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    needs("sphinx", "myst_nb", "furo")
    out, before = tmp_path_factory.mktemp("site")/"html", state_of_tree()
    done = subprocess.run([sys.executable, "-W", "ignore", ROOT/"docs/build_site.py", out], capture_output=True, text=True, cwd=out.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert state_of_tree() == before, "the build left something in the tree"
    return {f.relative_to(out).as_posix(): Html(f) for f in out.rglob("*.html")}, out


@pytest.fixture(scope="module")
def builder():
    needs("sphinx", "myst_nb", "furo")
    spec = importlib.util.spec_from_file_location("build_site", ROOT/"docs/build_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_notebook_has_a_page_with_its_text(site):
    said = {name: plain("".join(p.text)) for name, p in site[0].items()}
    for nb in NOTEBOOKS:
        cells = json.loads((ROOT/nb).read_text())["cells"]
        title = "".join(cells[0]["source"]).splitlines()[0].lstrip("# ")
        heads = [l.lstrip("# ").replace("`", "") for c in cells if c["cell_type"] == "markdown" for l in "".join(c["source"]).splitlines() if l.startswith("## ")]
        mine = [name for name, text in said.items() if all(plain(h) in text for h in [title, *heads]) and (plain(str(nb)) in text or nb.name == "index.ipynb")]
        assert mine, f"no page shows {nb}"


def plain(text): return re.sub(r"\W", "", text)


def test_every_public_name_is_documented_with_its_docments(site):
    import importlib, inspect
    from fastcore.docments import docments
    pages, _ = site
    for page in [p for p in NOTEBOOKS if p.name not in ("index.ipynb", "99_all.ipynb") and not p.name.endswith("_room.ipynb")]:
        source = (ROOT/page).read_text()
        exported = re.search(r"default_exp (\S+?)[\"\\]", source)[1]
        module = importlib.import_module(f"interp_kit.{exported}".removesuffix(".__init__"))
        html = pages[exported.replace(".__init__", ".room").replace(".", "/") + ".html"]
        text = plain("".join(html.text))
        for name in module.__all__:
            o = getattr(module, name)
            if getattr(o, "__module__", "") != module.__name__ or not (inspect.isfunction(o) or inspect.isclass(o)): continue
            anchor = f"{module.__name__}.{name}{'-class'*inspect.isclass(o)}".lower().replace(".", "-").replace("_", "-")
            assert anchor in html.ids, f"{anchor} is not on its page"
            if inspect.isfunction(o): assert all(plain(d or "") in text for d in docments(o).values()), name


def test_nothing_is_loaded_from_elsewhere(site):
    pages, out = site
    for name, page in pages.items():
        assert not [u for u in page.loads if urllib.parse.urlparse(u).scheme not in ("", "data") or u.startswith("//")], name
        for u in page.loads:
            if not u.startswith("data:"): assert (out/name).parent.joinpath(u.split("?")[0]).resolve().exists(), f"{name} loads {u}"
    for css in out.rglob("*.css"): assert not re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", css.read_text(encoding="utf-8")), css


def test_links_inside_lead_somewhere(site):
    pages, out = site
    for name, page in pages.items():
        for href in page.links:
            url = urllib.parse.urlparse(href)
            if url.scheme: continue
            file = (out/name).parent.joinpath(urllib.parse.unquote(url.path)).resolve() if url.path else out/name
            assert file.exists(), f"{name} links to {href}"
            if url.fragment and file.suffix == ".html": assert urllib.parse.unquote(url.fragment) in pages[file.relative_to(out).as_posix()].ids, f"{name} links to {href}"


def test_the_guides_are_reached_from_the_front_page(site):
    pages, _ = site
    assert {f"guides/{f.stem}.html" for f in (ROOT/"docs/guides").glob("*.md")} <= {l.split("#")[0] for l in pages["index.html"].links}


@pytest.mark.parametrize("file", [ROOT/"README.md", ROOT/"CONTRIBUTING.md", *(ROOT/"docs").glob("*.md"), *(ROOT/"docs/guides").glob("*.md"), *(ROOT/"docs/decisions").glob("*.md")], ids=lambda f: f.name)
def test_links_work_on_the_repository_page_too(file):
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", re.sub(r"(?ms)^```.*?^```", "", file.read_text())):
        assert link.startswith("https://") or (file.parent/link).exists(), link


def tiny(folder, path, *sources):
    file = folder/"nbs"/path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(dict(cells=[dict(cell_type="markdown" if s.startswith("# ") else "code", source=s, metadata={}, outputs=[]) for s in sources], metadata={})))


def test_an_unknown_room_is_an_error_that_says_where_to_name_it(builder, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "ROOT", tmp_path)
    tiny(tmp_path, "garden/10_roses.ipynb", "# garden.roses", "#| default_exp garden.roses")
    with pytest.raises(builder.SiteError, match="garden/10_roses.ipynb.*add 'garden' to ROOMS"): builder.pages()


def test_a_new_notebook_of_a_known_room_needs_no_edit(builder, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "ROOT", tmp_path)
    tiny(tmp_path, "bias/60_tags.ipynb", "# bias.tags\n> Tags of rows.", "#| default_exp bias.tags")
    page, = builder.pages()
    assert (page.doc, page.room, page.about) == ("bias/tags", "bias", "Tags of rows.")


def test_two_notebooks_for_one_page_are_an_error(builder, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "ROOT", tmp_path)
    for n in (10, 11): tiny(tmp_path, f"bias/{n}_tags.ipynb", "# bias.tags", "#| default_exp bias.tags")
    with pytest.raises(builder.SiteError, match="bias/tags"): builder.pages()


def test_an_unknown_directive_is_an_error(builder, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "ROOT", tmp_path)
    tiny(tmp_path, "bias/60_tags.ipynb", "# bias.tags", "#| default_exp bias.tags", "#| dance\n1")
    with pytest.raises(builder.SiteError, match="bias/60_tags.ipynb.*'dance'"): builder.cells_of(builder.pages()[0], {}, {})


def test_a_link_to_a_missing_file_is_an_error(builder):
    assert builder.relink("[x](../nbs/00_core.ipynb#a)", "docs/index.md", {"nbs/00_core.ipynb": "core"}) == "[x](/core#a)"
    with pytest.raises(builder.SiteError, match="docs/index.md links to guides/none.md"): builder.relink("[x](guides/none.md)", "docs/index.md", {})


def test_a_folder_with_other_things_is_not_replaced(builder, tmp_path):
    (tmp_path/"out").mkdir(); (tmp_path/"out/thesis.tex").write_text("years of work")
    with pytest.raises(builder.SiteError, match="holds no site"): builder.replace(tmp_path/"out", tmp_path)
    assert (tmp_path/"out/thesis.tex").exists()
