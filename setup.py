"""Everything about the package is said once, in settings.ini; this file only passes it on."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
# '=' alone delimits, so that a requirement or an address may contain ':'
settings = ConfigParser(delimiters=["="])
settings.read(here / "settings.ini", encoding="utf-8")
cfg = settings["DEFAULT"]
name = cfg["lib_name"]

extras = {extra: cfg[f"{extra}_requirements"].split() for extra in ("dev", "bench", "docs", "cluster", "tensorboard")}
extras["dev"] += extras["cluster"] + extras["tensorboard"]

setup(
    name=name,
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    url=cfg["git_url"],
    project_urls={
        "Documentation": cfg["doc_host"] + cfg["doc_baseurl"],
        "Source": cfg["git_url"],
        "Issues": f"{cfg['git_url']}/issues",
        "Changelog": f"{cfg['git_url']}/blob/{cfg['branch']}/CHANGELOG.md",
    },
    keywords=cfg["keywords"].split(),
    license={"apache2": "Apache-2.0"}[cfg["license"]],
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Mathematics",
        "Typing :: Typed",
    ],
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=[name, f"{name}.*"]),
    package_data={name: ["py.typed"]},
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        # lets nbdev link a symbol in backticks to its documentation
        "nbdev": [f"{name}={name}._modidx:d"],
    },
    zip_safe=False,
)
