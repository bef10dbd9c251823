"Read the packaging facts from settings.ini and the version from the package."
import re
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
cfg = ConfigParser(delimiters=["="])
cfg.read(here/"settings.ini", encoding="utf-8")
facts = cfg["DEFAULT"]
lines = lambda key: [o for o in facts.get(key, "").split("\n") if o]

setup(
    version=re.search(r'__version__ = "(.+)"', (here/"interp_kit/__init__.py").read_text()).group(1),
    description=facts["description"],
    long_description=(here/"README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=facts["author"], author_email=facts["author_email"], license=facts["license"],
    keywords=facts["keywords"], classifiers=lines("classifiers"),
    python_requires=f">={facts['min_python']}",
    packages=find_packages(include=["interp_kit", "interp_kit.*"]),
    install_requires=lines("requirements"),
    extras_require={k.removesuffix("_requirements"): lines(k) for k in facts if k.endswith("_requirements")},
    entry_points={"console_scripts": lines("console_scripts"), "nbdev": ["interp_kit=interp_kit._modidx:d"]},
)
