"""Heavy packages are imported by the commands that need them, and the device half never needs torch or timm."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Import names of every package that is not a dependency of the base installation.
EXTRAS = (
    "accelerate cuda jtop onnx onnxruntime pycuda pynvml safetensors scipy sklearn tensorboard tensorrt timm torch "
    "torchvision"
).split()
DEVICE_HALF = ("spec", "data", "graph", "allocation", "engines", "runtime", "power", "bench", "report", "cli")

IMPORT_ALL = """
import importlib, json, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

absent = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Absent())
imported = ["heartvit_edge.errors"]
importlib.import_module("heartvit_edge.errors")
for stage in sys.argv[2].split(","):
    package = importlib.import_module(f"heartvit_edge.{stage}")
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
        imported.append(module.name)
print(json.dumps(imported))
"""


def python(*args: str) -> str:
    """Return what a fresh interpreter prints."""
    done = subprocess.run([sys.executable, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["build-engine", "--help"]])
def test_help_imports_no_heavy_package(arguments):
    code = (
        "import sys\n"
        "from heartvit_edge.cli.app import main\n"
        f"sys.argv = ['heartvit-edge', *{arguments}]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        "    pass\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, sep='\\n')\n"
    )
    modules = set(python("-c", code).splitlines())
    assert {"typer", "heartvit_edge"} <= modules
    assert modules.isdisjoint({*EXTRAS, "numpy", "PIL"})


def test_the_device_half_imports_where_only_the_base_installation_is_present(repository):
    imported = json.loads(python("-c", IMPORT_ALL, ",".join(EXTRAS), ",".join(DEVICE_HALF)))
    package = repository / "heartvit_edge"
    expected = {
        ".".join(file.relative_to(repository).with_suffix("").parts)
        for stage in DEVICE_HALF
        for file in (package / stage).rglob("*.py")
        if file.name != "__init__.py"
    }
    assert expected <= set(imported)


def test_the_test_of_absent_packages_sees_an_import_of_torch(tmp_path):
    (tmp_path / "wants_torch.py").write_text("import torch.nn\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + IMPORT_ALL.replace(
        'importlib.import_module("heartvit_edge.errors")', 'importlib.import_module("wants_torch")'
    )
    done = subprocess.run([sys.executable, "-c", code, "torch", "spec"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "No module named 'torch'" in done.stderr


def test_the_contracts_of_the_pipeline_hold(repository):
    lint_imports = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint_imports, "--no-cache"], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout
