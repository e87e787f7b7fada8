"""Build of the pe_runtime package; everything declarative is in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

setup(
    version=(ROOT / "pe_runtime" / "VERSION").read_text().strip(),
    packages=[*find_packages(include=["pe_runtime", "pe_runtime.*"]), "pe_runtime.exporters"],
    # The graph writers live at the top level of the checkout (`export/`), where they also run as
    # scripts. Installed, they are `pe_runtime.exporters`: a package called `export` would be a trespass.
    package_dir={"pe_runtime.exporters": "export"},
    package_data={"pe_runtime": ["VERSION", "py.typed"]},
)
