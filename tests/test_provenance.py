"""Where a run comes from, as its folder keeps it."""

import sys
from importlib import metadata

import pytest

import bilevax as bx
from bilevax.io.provenance import commanded, provenance


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["/some/place/mine.py", "--fast"], ["python", "mine.py", "--fast"]),
        ([""], []),  # a prompt
        (["-c"], []),
        (["/some/place/ipykernel_launcher.py", "-f", "kernel.json"], []),
    ],
)
def test_a_run_from_python_names_its_file_and_no_place_of_this_machine(argv, command, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv)
    assert provenance()["command"] == command


def test_a_command_line_is_kept_whole_while_it_lasts(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mine.py"])
    with commanded(["solve", "bimatrix", "--tau", "0.1"]):
        found = provenance()
    assert found["command"] == ["bilevax", "solve", "bimatrix", "--tau", "0.1"]
    assert found["versions"]["jax"] == metadata.version("jax")
    assert provenance()["command"] == ["python", "mine.py"]


def test_the_version_is_that_of_the_code_that_runs_installed_or_not(monkeypatch):
    installed = metadata.version

    def version(name):
        if name == "bilevax":
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(metadata, "version", version)
    assert provenance()["versions"]["bilevax"] == bx.__version__
