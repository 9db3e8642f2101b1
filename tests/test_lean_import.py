"""`qcompress --help` answers at once: nothing heavy is imported before a command runs."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("numpy", "onnx", "onnx_ir", "onnxruntime", "rich", "sympy", "ml_dtypes", "PIL")


def loaded(code: str) -> set[str]:
    """The heavy libraries that are loaded once the code has run in a fresh interpreter."""
    check = f"{code}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded("import qcompress; qcompress.__version__") == set()


def test_help_loads_nothing_heavy() -> None:
    code = "import contextlib, io\nfrom qcompress.cli import main\n"
    code += "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n    main(['--help'])"
    assert loaded(code) == set()


def test_every_option_can_be_parsed_before_anything_heavy_is_loaded() -> None:
    """The files of the commands themselves are light; only running one loads what it needs."""
    assert loaded("import qcompress.cli.compress, qcompress.cli.inspect, qcompress.cli.operators") == set()


def test_public_names_are_lazy_and_complete() -> None:
    code = "import qcompress\nfor name in qcompress.__all__: getattr(qcompress, name)\nassert set(qcompress.__all__) <= set(dir(qcompress))"
    assert "numpy" in loaded(code)


def test_an_unknown_name_is_an_attribute_error() -> None:
    code = "import qcompress\ntry:\n    qcompress.nothing\nexcept AttributeError as error:\n    assert 'nothing' in str(error)\nelse:\n    raise SystemExit(1)"
    assert loaded(code) == set()


def test_help_is_quick() -> None:
    """Under 0.15 s, interpreter included; processor time, which is the wall time of a machine with nothing else to do."""
    seconds = []
    for _ in range(7):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "qcompress", "--help"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert statistics.median(seconds) < 0.15, [f"{second:.3f}" for second in seconds]
