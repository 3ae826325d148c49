"""The documentation, `make docs`: pages in Markdown, and a reference made of docstrings; nothing is imported."""

import sysconfig
from importlib.metadata import version as installed_version
from pathlib import Path

project = "ottt-loihi"
version = release = installed_version(project)
copyright = "the ottt-loihi authors, BSD-3-Clause"
extensions = ["myst_parser", "autoapi.extension", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

# the package as it is installed: the four folders of the source tree are one package only then (design.md)
autoapi_dirs = [str(Path(sysconfig.get_paths()["purelib"]) / "ottt_loihi")]
autoapi_root = "reference"
autoapi_ignore = ["*/cli/*"]
autoapi_options = ["members", "show-module-summary", "undoc-members"]
autoapi_python_class_content = "both"
autoapi_add_toctree_entry = False
napoleon_google_docstring = False
napoleon_use_ivar = True  # an attribute is an object of its own already, where the class declares it
suppress_warnings = ["autoapi.python_import_resolution"]  # names that a package loads when they are first used

html_theme = "furo"
html_title = "ottt-loihi"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#3b6ea8", "color-brand-content": "#3b6ea8"},
    "dark_css_variables": {"color-brand-primary": "#8fb4dd", "color-brand-content": "#8fb4dd"},
}
