"""What is installed: data files beside the code, pins inside the ranges, a light import."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pruned_upstream
from pruned_upstream.extras import EXTRA_OF

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def metadata(tmp_path_factory):
    """The keyword arguments that setup.py passes to setuptools."""
    setuptools = pytest.importorskip("setuptools")
    passed = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **arguments: passed.update(arguments))
        patch.chdir(REPOSITORY)
        runpy.run_path(str(REPOSITORY / "setup.py"))
    return passed


def test_one_version(metadata):
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert metadata["version"] == citation["version"] == pruned_upstream.__version__


def test_pins_lie_in_the_ranges(metadata):
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins}
    assert len(versions) == len(pins)
    extras = metadata["extras_require"]
    # fairseq is no part of the environment of tests; it is installed by hand where it is to be an oracle
    wanted = metadata["install_requires"] + [line for name in extras if name != "fairseq" for line in extras[name]]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_the_import_brings_nothing_but_what_watches_for_transformers():
    program = "import sys; before = set(sys.modules); import pruned_upstream; print(*sorted(set(sys.modules) - before))"
    bare = [sys.executable, "-S", "-c", program]  # what is installed here may import some of it at the start
    found = subprocess.run(bare, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split()
    watching = ["", ".after_import", ".transformers_plugin", ".transformers_plugin.registry"]
    assert [name for name in found if name.startswith("pruned_upstream")] == [f"pruned_upstream{n}" for n in watching]
    assert not {"re", "typing", "logging", "pathlib"} & set(found)


def test_the_import_loads_no_torch():
    loaded = subprocess.run(
        [sys.executable, "-c", "import pruned_upstream, sys; print('torch' in sys.modules, 's3prl' in sys.modules)"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout == "False False\n"


def test_load_and_register_are_at_hand():
    from pruned_upstream.model.checkpoint import load
    from pruned_upstream.s3prl_plugin.registry import register

    assert pruned_upstream.load is load and pruned_upstream.register is register
    assert {"load", "register", "__version__"} <= set(dir(pruned_upstream))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        pruned_upstream.lod  # noqa: B018


def test_an_installed_package_carries_recipes_and_configs(tmp_path):
    build = [
        "egg_info",
        "--egg-base",
        tmp_path,
        "build",
        "--build-base",
        tmp_path / "b",
        "--build-lib",
        tmp_path / "lib",
    ]
    subprocess.run([sys.executable, "setup.py", "-q", *build], cwd=REPOSITORY, capture_output=True, check=True)
    code = (
        "import pruned_upstream.resources as r; from pathlib import Path; "
        "print(Path(r.__file__).parents[1]); print(*r.names(r.RECIPES)); print(*r.names(r.DOWNSTREAM_CONFIGS))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "lib", capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert Path(found[0]).samefile(tmp_path / "lib")
    for line, folder in zip(found[1:], ("recipes", "downstream_configs"), strict=True):
        assert line.split() == sorted(path.stem for path in (REPOSITORY / folder).glob("*.yaml"))
    shipped = {path.relative_to(tmp_path / "lib") for path in (tmp_path / "lib").rglob("*") if path.is_file()}
    data = {".yaml", ".csv", ".html", ".json", ".txt", ".typed"}
    in_checkout = (path for path in (REPOSITORY / "pruned_upstream").rglob("*") if path.suffix in {".py", *data})
    wanted = {path.relative_to(REPOSITORY) for path in in_checkout if "miniature" not in path.parts}
    assert wanted <= shipped
    assert not [path for path in shipped if "miniature" in path.parts]  # of demo and tests alone


def test_extras_bring_what_the_sentences_say(metadata):
    from importlib.metadata import packages_distributions

    extras = {
        name: {canonicalize_name(Requirement(line).name) for line in lines}
        for name, lines in metadata["extras_require"].items()
    }
    distributions = packages_distributions()
    for module, extra in EXTRA_OF.items():
        names = {canonicalize_name(name) for name in distributions.get(module, ())}
        assert names & extras[extra], f"{module} comes with {names}, none of which is in the extra {extra}"


def test_the_core_is_what_load_needs(metadata):
    assert {Requirement(line).name for line in metadata["install_requires"]} == {"torch", "safetensors", "numpy"}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("from pruned_upstream.cli import main; main()", "'typer' is missing; pip install 'pruned_upstream[cli]'"),
        ("from pruned_upstream.run_downstream import main; main(['-m', 'train'])", "pruned_upstream[superb]"),
    ],
)
def test_what_is_missing_is_named_with_its_extra(tmp_path, command, words):
    code = (
        "import sys\n"
        "sys.modules['typer'] = sys.modules['s3prl'] = None  # as if they were not installed\n"
        f"sys.argv = ['pruned-upstream', 'info', 'x']\n{command}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2 and words in done.stderr, done.stderr
