"Write README.md and its pictures from the committed outputs of nbs/index.ipynb."
import re
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
PICTURES = "docs/readme"


def readme():
    "(text of README.md, file name -> bytes of its pictures)."
    nb = nbformat.read(ROOT/"nbs/index.ipynb", 4)
    nb.metadata["language_info"] = {"name": "python"}
    for c in nb.cells:
        if c.source.startswith("#| echo: false"): c.metadata["tags"] = ["remove_input"]
    exporter = MarkdownExporter(config={"TagRemovePreprocessor": {"enabled": True, "remove_input_tags": ["remove_input"]}})
    text, res = exporter.from_notebook_node(nb, {"unique_key": "tour", "output_files_dir": PICTURES})
    text = re.sub(r"<style scoped>.*?</style>\n", "", text, flags=re.S)
    text = re.sub(r"!\[png\]\((.*?)\)", r"![what the cell above draws](\1)", text).replace("![what the cell above draws]", "![confusion matrix, reliability diagram and worst rows of the digits model]", 1)
    text = text.replace("](../", "](") # links of the notebook, seen from the root
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n", res["outputs"]


def main():
    text, pictures = readme()
    (ROOT/"README.md").write_text(text, encoding="utf-8")
    (ROOT/PICTURES).mkdir(exist_ok=True)
    for f in (ROOT/PICTURES).glob("*.png"): f.unlink()
    for name, data in pictures.items(): (ROOT/name).write_bytes(data)


if __name__ == "__main__": main()
