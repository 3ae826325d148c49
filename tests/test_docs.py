"""What the documentation names exists: files, links, tests, commands and their options; its Python runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
EVERYTHING = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]


def without_code(text):
    return re.sub(r"```.+?```", "", text, flags=re.S)


@pytest.mark.parametrize("page", EVERYTHING, ids=lambda path: path.name)
def test_links_and_paths_lead_somewhere(page):
    text = without_code(page.read_text())
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / link).exists(), f"{page.name}: link to {link}"
    for path in re.findall(r"`((?:docs|tests|notebooks|benchmarks|configs|onchip|converters|sim)/[\w./-]+)", text):
        assert (ROOT / path.rstrip(".")).exists(), f"{page.name}: {path}"


def anchors(page):
    """The anchor of each heading, as GitHub and MyST make it."""
    titles = re.findall(r"^#+ (.+)$", without_code(page.read_text()), re.M)
    return {re.sub(r"[^\w\s-]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", EVERYTHING, ids=lambda path: path.name)
def test_links_to_a_heading_find_it(page):
    for link, anchor in re.findall(r"\]\(((?!https?:)[^)#]*)#([^)]+)\)", without_code(page.read_text())):
        assert anchor in anchors(page.parent / link if link else page), f"{page.name}: {link}#{anchor}"


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/design.md"])
def test_every_named_module_exists(page):
    """With or without the folders that lead to it."""
    modules = ["/" + str(path.relative_to(ROOT)) for path in ROOT.glob("*/**/*.py") if ".venv" not in str(path)]
    for name in re.findall(r"`([\w./-]+\.py)\b", (ROOT / page).read_text()):
        assert any(module.endswith("/" + name) for module in modules), f"{page}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_page_is_in_the_table_of_contents(page):
    contents = "\n".join(re.findall(r"```\{toctree\}.+?```", (ROOT / "docs/index.md").read_text(), re.S))
    assert page.stem == "index" or page.stem in contents.split()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_named_test_exists(page):
    for file, name in re.findall(r"`(tests/test_\w+\.py)::(\w+)`", page.read_text()):
        assert re.search(rf"def {name}\(", (ROOT / file).read_text()), f"{page.name}: {file}::{name}"


def test_every_row_of_the_exactness_page_names_a_test():
    rows = [line for line in (ROOT / "docs/exactness.md").read_text().splitlines() if line.startswith("|")]
    rows = [row for row in rows if not re.match(r"\| what is compared|\|---", row)]
    assert len(rows) > 30
    for row in rows:
        assert "tests/test_" in row, row


def commands(text):
    """(program, options) of each line of ours in the shell blocks, and of each command in a sentence or table."""
    inline = re.findall(r"`(ottt-\w+ [^`\n]+)`", without_code(text))
    for block in [*re.findall(r"```(?:sh|bash)\n(.+?)```", text, re.S), *inline]:
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["torchrun"]:
                words = ["ottt-train", *words[words.index("ottt_loihi.cli.train") + 1 :]]
            if words and words[0].startswith("ottt-"):
                yield words[0], [word.split("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]


@pytest.mark.parametrize("program", ["train", "eval", "export", "run", "learn", "data", "doctor"])
def test_every_option_exists(program):
    """And ``--help-all`` shows an example, at 80 columns."""
    name = f"ottt-{program}"
    done = subprocess.run(
        [str(Path(sys.executable).with_name(name)), "--help-all"],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
        env={"COLUMNS": "80"},
    )
    assert re.search(rf"Examples?: {name}\b", done.stdout), done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    known = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", done.stdout)) | {
        "--install-completion"
    }  # typer's, in a shell
    for page in [page for page in EVERYTHING if page.name != "migration.md"]:  # it names the options of 0.1
        for who, options in commands(page.read_text()):
            assert who != name or set(options) <= known, f"{page.name}: {set(options) - known}"


def test_the_python_of_the_how_to_runs():
    pytest.importorskip("torch")
    text = (ROOT / "docs/howto.md").read_text()
    rng = np.random.default_rng(0)
    names = {"x": rng.random((20, 8, 8)), "y": np.arange(20) % 2, "spikes": rng.random((20, 6, 8, 8)) < 0.5}
    blocks = [block for block in re.findall(r"```python\n(.+?)```", text, re.S) if "slayer" not in block]
    assert len(blocks) == 5
    for block in blocks:
        exec(block, names)
    assert names["split"].time_axis
    import torch

    assert names["net"](torch.zeros(2, 6, 8, 8)).shape == (2, 10)
    assert names["scores"].shape == (32, 10)
    assert all(p.grad is not None for p in names["module"].parameters())


def test_the_python_of_the_sensor_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.+?)```", (ROOT / "docs/sensor.md").read_text(), re.S):
        exec(block, names)
    accuracy = (names["found"].predictions == names["data"].split.y_test).mean()
    assert accuracy >= 0.9, capsys.readouterr().out


def test_the_python_of_the_data_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    names = {"x": rng.random((20, 8, 8)), "y": np.arange(20) % 2, "spikes": rng.random((20, 6, 8, 8)) < 0.5}
    np.savez("mine.npz", x=names["x"], y=names["y"])
    (block,) = re.findall(r"```python\n(.+?)```", (ROOT / "docs/data.md").read_text(), re.S)
    exec(block, names)
    assert names["split"].x_train.shape[1:] == (8, 8)


@pytest.mark.slow
def test_the_python_of_the_page_on_learning_runs(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from ottt_loihi.sim import storage

    import ottt_loihi as ol

    digits = ol.load_data("digits")
    net = ol.mlp((64, 32, 10), input_shape=(8, 8))
    ol.Trainer(net, ol.OTTT()).fit(digits, epochs=2)
    monkeypatch.chdir(tmp_path)
    Path("runs/first").mkdir(parents=True)
    storage.save(ol.export(net).chip, "runs/first/model.h5")
    spikes, labels = ol.rate_code(digits.x_train[:500], num_steps=6), digits.y_train[:500]
    parts = {name: (spikes[i : i + 40], labels[i : i + 40]) for i, name in enumerate(("monday", "tuesday", "new_data"))}
    names = {**parts, "old_x": spikes, "old_labels": labels, "old_images": spikes[:40], "new_images": spikes[40:80]}
    blocks = re.findall(r"```python\n(.+?)```", (ROOT / "docs/onchip.md").read_text(), re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    assert len(names["lateral"]) == 2


@pytest.mark.lava
@pytest.mark.parametrize("page", ["howto.md", "training.md"])
def test_the_python_for_slayers_blocks_runs(page):
    torch = pytest.importorskip("torch")
    slayer = pytest.importorskip("lava.lib.dl.slayer")
    neuron = {"threshold": 1.25, "current_decay": 1.0, "voltage_decay": 0.03, "tau_grad": 0.03, "scale_grad": 3}
    net = torch.nn.Module()
    net.blocks = torch.nn.ModuleList([slayer.block.cuba.Dense(neuron, 64, 10)])
    names = {"net": net, "x": (torch.rand(8, 64, 10) < 0.5).float(), "labels": torch.randint(10, (8,))}
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    names["optimizer"] = torch.optim.Adam(net.parameters())
    blocks = re.findall(r"```python\n(.+?)```", (ROOT / "docs" / page).read_text(), re.S)
    (block,) = [block for block in blocks if "slayer" in block]
    exec(block, names)
    assert any(not torch.equal(before[name], p) for name, p in net.named_parameters())
