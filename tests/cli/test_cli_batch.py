"""``qcompress batch`` as a process: broken models cost themselves alone, kills cost nothing, what stands is not made again."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from many_models import CAUSES, make_model, make_zoo

from qcompress.cli import COMMANDS, main
from qcompress.cli.batch import batch
from qcompress.cli.compress import compress
from qcompress.cli.passing import LEFT_OUT, ONE_MODEL
from qcompress.errors import ExitCode, NothingToCompressError, QcompressError, RecipeError, UsageError
from qcompress.zoo.jobs import Outcome, Status, Summary, summary_from_json
from qcompress.zoo.state import locked

ROOT = Path(__file__).resolve().parent.parent.parent
BROKEN = ("truncated", "wrong_data", "hang", "hog", "abort", "segfault")
LIMIT = 1_200_000_000

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def results(out: Path) -> dict[str, str]:
    """The digests of all models and reports, by their place."""
    files = sorted([*out.rglob("*.onnx"), *out.rglob("*.report.json")])
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def in_process(*words: str | Path) -> object:
    """Run the command here, for what ends before any work."""
    return main.main([str(word) for word in words], standalone_mode=False)


def by_name(summary: Summary) -> dict[str, Outcome]:
    return {outcome.name: outcome for outcome in summary.outcomes}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of two good models and one broken one of each kind."""
    return make_zoo(tmp_path_factory.mktemp("zoo") / "models", 2, BROKEN, timeout=4.0)


@pytest.fixture(scope="module")
def run(zoo: Path) -> subprocess.CompletedProcess[str]:
    """That zoo compressed, with events on stderr."""
    words = [sys.executable, "-m", "qcompress", "batch", str(zoo), "-o", str(zoo.parent.parent / "out"), "--jobs=2"]
    words += [f"--memory-limit={LIMIT}", "--json-progress", "--format=json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=300, env=environment)


def test_broken_models_cost_themselves_alone(run, zoo):
    summary = summary_from_json(run.stdout)
    assert run.returncode == summary.exit_code == ExitCode.GATE_FAILED
    for outcome in summary.outcomes:
        assert outcome.status == CAUSES.get(outcome.name.rstrip("0123456789"), "done"), outcome
        assert bool(outcome.cause) == (outcome.status is not Status.DONE)
    causes = {outcome.name.rstrip("0123456789"): outcome.cause for outcome in summary.outcomes}
    assert "SIGABRT" in causes["abort"]
    assert "SIGSEGV" in causes["segfault"]
    assert "no end after 4 s" in causes["hang"]
    assert "x" in causes["wrong_data"]
    assert summary.outcomes[-1].status is Status.DONE
    assert summary.peak <= LIMIT


def test_results_lie_where_the_models_lay(run, zoo):
    out = zoo.parent.parent / "out"
    assert {"group0/model000.onnx", "group1/model001.report.json"} <= set(results(out))
    assert not list(out.glob("hang*.onnx"))
    report = json.loads((out / "group0" / "model000.report.json").read_text())
    assert report["target"] == str(out / "group0" / "model000.onnx")
    assert "Fitting weights" in (out / "group0" / "model000.log").read_text()
    assert "Segmentation fault" in next(out.glob("segfault*.log")).read_text()
    for name in ("summary.json", "summary.csv", "summary.md", "summary.html"):
        assert "model000" in (out / name).read_text()
    assert sorted(item.name for item in (out / ".qcompress-batch").iterdir()) == ["lock"]


def test_events_tell_every_stage_and_end(run):
    events = [json.loads(line) for line in run.stderr.splitlines()]
    assert events[0]["type"] == "begin"
    assert events[0]["models"] == len(events[0]["run"]) == 8
    assert {event["name"] for event in events if event["type"] == "outcome"} == set(events[0]["run"])
    stages = [event["stage"] for event in events if event.get("job") == "group0/model000" and event["kind"] == "stage"]
    assert stages[0] == "Calibrating"


def test_what_stands_is_not_made_again_and_what_changed_is(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
):
    folder, out = tmp_path / "models", tmp_path / "out"
    for index, name in enumerate(("a", "deep/b")):
        make_model(folder, name, index)
    words = ("batch", folder, "-o", out, "--mode=weights", "--no-latency", "--format=json", "-q")
    first = command(*words)
    assert first.returncode == 0, first.stderr
    before = results(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.onnx")}
    again = by_name(summary_from_json(command(*words).stdout))
    assert all(outcome.reused for outcome in again.values())
    (out / "deep" / "b.report.json").unlink()
    third = by_name(summary_from_json(command(*words).stdout))
    assert {name: outcome.reused for name, outcome in third.items()} == {"a": True, "deep/b": False}
    assert results(out) == before
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.onnx")} == times, "equal content keeps its time"
    np.savez(folder / "a.calib.npz", x=np.load(folder / "a.calib.npz")["x"][:8])
    capsys.readouterr()
    in_process("batch", folder, "-o", out, "--mode=weights", "--no-latency", "--dry-run", "--format=json")
    rows = {row["model"]: (row["would"], row["why"]) for row in json.loads(capsys.readouterr().out)}
    assert rows == {"a": ("runs", "changed: data"), "deep/b": ("stands", None)}


def test_killed_at_random_moments_the_results_are_the_same(tmp_path: Path, command: Command):
    manifest, out = make_zoo(tmp_path / "zoo", 3), tmp_path / "out"
    words = ["batch", str(manifest), "-o", str(out), "--jobs=2", "-q", "--format=json"]
    started = time.monotonic()
    assert command(*words).returncode == 0
    seconds = time.monotonic() - started
    expected = results(out)
    out.rename(tmp_path / "undisturbed")
    moments = random.Random(1)
    for _ in range(2):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen([sys.executable, "-m", "qcompress", *words], stdout=subprocess.DEVNULL, env=environment)
        time.sleep(moments.uniform(0.3 * seconds, 0.8 * seconds))
        process.kill()
        process.wait()
    last = command(*words)
    assert last.returncode == 0, last.stderr
    assert results(out) == expected
    assert not list(out.rglob("*.part"))


def test_stopped_it_takes_its_processes_with_it(tmp_path: Path):
    manifest = make_zoo(tmp_path / "zoo", 0, ("hang",), timeout=100)
    words = [sys.executable, "-m", "qcompress", "batch", str(manifest), "-o", str(tmp_path / "out"), "--json-progress"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    while '"started"' not in process.stderr.readline():
        assert process.poll() is None
    while not (children := Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    deadline = time.monotonic() + 20.0
    while any(Path(f"/proc/{child}").exists() for child in children):  # the system may take a moment to bury them
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.stderr.close()


def test_a_neighbour_stands_still_while_one_is_timed(tmp_path: Path):
    """The neighbour never ends by itself and never measures, so it is there, and at work, whenever the other is timed."""
    manifest, out = make_zoo(tmp_path / "zoo", 1, ("hang",), timeout=300), tmp_path / "out"
    manifest.write_text(manifest.read_text().replace("latency = false\n", ""))
    words = [sys.executable, "-m", "qcompress", "batch", str(manifest), "-o", str(out), "--jobs=2", "--json-progress"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    awaited = {("paused", "hang0"), ("resumed", "hang0"), ("ended", "group0/model000")}
    while awaited:
        event = json.loads(process.stderr.readline())
        awaited.discard((event.get("kind"), event.get("job")))
    process.terminate()
    process.wait(30)
    process.stderr.close()
    report = json.loads((out / "group0" / "model000.report.json").read_text())
    assert report["latency"]["speedup"]["value"] > 0


def test_two_runs_do_not_share_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_model(tmp_path / "models", "a", 0)
    with locked(tmp_path / "out"), pytest.raises(QcompressError, match="another run"):
        in_process("batch", tmp_path / "models", "-o", tmp_path / "out")


def test_fail_fast_ends_at_the_first_failure(tmp_path: Path, command: Command):
    manifest = make_zoo(tmp_path / "zoo", 0, ("no_file", "no_file"))
    done = command("batch", manifest, "-o", tmp_path / "out", "--fail-fast", "--jobs=1", "--format=json", "-q")
    assert done.returncode == ExitCode.UNUSABLE
    statuses = {outcome.status for outcome in summary_from_json(done.stdout).outcomes}
    assert statuses == {Status.UNUSABLE, Status.NOT_RUN}


def test_a_manifest_is_written_once_and_a_dry_run_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_model(tmp_path, "deep/a", 0)
    in_process("batch", tmp_path, "--init")
    with pytest.raises(UsageError, match="there already"):
        in_process("batch", tmp_path, "--init")
    with pytest.raises(UsageError, match="writes nothing"):
        in_process("batch", tmp_path, "--init", "--dry-run")
    in_process("batch", tmp_path / "zoo.toml", "-o", tmp_path / "out", "--dry-run", "--format=json", "--layer", "Gemm=int8")
    (row,) = json.loads(capsys.readouterr().out)
    assert row["model"] == "deep/a"
    assert (row["would"], row["why"]) == ("runs", "there is no result yet")
    assert row["data"].endswith("a.calib.npz")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["-o", "out", "--recipe=int9"], RecipeError, "no recipe 'int9'"),
        (["-o", "out", "--cost-file=x.json"], click.UsageError, "No such option"),
        ([], UsageError, "no folder for the results"),
        (["-o", "out", "--memory-limit=much"], click.UsageError, "not a size"),
        (["-o", "out", "--timeout=soon"], click.UsageError, "not a time"),
        (["-o", "out", "--pattern=*.ort"], QcompressError, "there is no"),
        (["-o", "out", "--pattern="], UsageError, "no pattern"),
        (["-o", "out", "--min-speedup=1.2", "--no-latency"], UsageError, "not measured"),
        (["-o", "out", "--pattern=/models/*.onnx"], UsageError, "no pattern"),
    ],
)
def test_mistakes_are_told_before_the_work(words, error, message, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_model(tmp_path, "a", 0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as raised:
        in_process("batch", tmp_path, *words)
    assert message in getattr(raised.value, "message", str(raised.value))


def test_a_value_that_compress_does_not_take_is_told_with_its_model(tmp_path: Path):
    make_model(tmp_path, "a", 0)
    (tmp_path / "zoo.toml").write_text("[[models]]\nmodel = 'a.onnx'\nmode = 'fast'\n")
    with pytest.raises(UsageError, match=r"a: .*fast"):
        in_process("batch", tmp_path / "zoo.toml", "-o", tmp_path / "out")


def test_it_offers_what_compress_does():
    own = {option.name for option in batch.params}
    for option in compress.params:
        if isinstance(option, click.Option):
            assert option.name in own or option.name in (*LEFT_OUT, *ONE_MODEL), option.name
    assert list(COMMANDS)[1] == "batch"


def test_a_model_without_weights_is_told_before_its_data_is_read(tmp_path: Path):
    path = tmp_path / "plain.onnx"
    text = '<ir_version: 8, opset_import: ["": 17]> plain (float[2] x) => (float[2] y) { y = Relu (x) }'
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    with pytest.raises(NothingToCompressError, match="no weight can be compressed"):
        in_process("compress", path, "-o", tmp_path / "out.onnx", "--data", tmp_path / "missing.npz")


QUICK = ("--mode=weights", "--no-latency", "--format=json", "-q")


def test_a_manifest_elsewhere_and_results_named_from_here(tmp_path: Path, command: Command):
    make_zoo(tmp_path / "models", 1)
    done = command("batch", "models/zoo.toml", "-o", "out", *QUICK, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "out" / "group0" / "model000.onnx").exists()


def test_options_as_long_as_they_may_be(tmp_path: Path, command: Command):
    manifest = make_zoo(tmp_path / "zoo", 2)
    names = [f"layer/{number:04}/with/a/long/name/MatMul" for number in range(4000)]
    text = manifest.read_text().replace(
        'name = "group0/model000"', f'name = "group0/model000"\nexclude = {json.dumps(names)}'
    )
    manifest.write_text(text)
    done = command("batch", manifest, "-o", tmp_path / "out", "--jobs=2", *QUICK)
    outcomes = by_name(summary_from_json(done.stdout))
    assert "no layer is called 'layer/0000" in outcomes["group0/model000"].cause
    assert outcomes["group1/model001"].status is Status.DONE


def test_a_place_that_cannot_be_written_costs_its_model_alone(tmp_path: Path, command: Command):
    manifest, out = make_zoo(tmp_path / "zoo", 2), tmp_path / "out"
    out.mkdir()
    (out / "group0").touch()
    done = command("batch", manifest, "-o", out, *QUICK)
    assert done.returncode == ExitCode.GATE_FAILED, done.stderr
    outcomes = by_name(summary_from_json(done.stdout))
    assert outcomes["group0/model000"].status is Status.UNUSABLE
    assert "group0" in outcomes["group0/model000"].cause
    assert outcomes["group1/model001"].status is Status.DONE


def test_names_may_be_odd(tmp_path: Path, command: Command):
    model = make_model(tmp_path / "models", "a", 0).read_bytes()
    names = [os.fsdecode(b"\xff.onnx"), "tab\tand\nline.onnx"]
    for name in names:
        (tmp_path / "models" / name).write_bytes(model)
    (tmp_path / "models" / "b.onnx").write_bytes(model)
    (tmp_path / "models" / "b.state.json").write_text("{}")  # somebody else's file
    done = command("batch", tmp_path / "models", "-o", tmp_path / "out", "--junit", tmp_path / "out" / "j.xml", *QUICK)
    outcomes = by_name(summary_from_json(done.stdout))
    assert len(outcomes) == 4
    unusable = [name for name, outcome in outcomes.items() if outcome.status is not Status.DONE]
    assert unusable == ["\udcff"]  # the runtime cannot open it
    assert all((tmp_path / "out" / name).exists() for name in (names[1], "a.onnx", "b.onnx", "summary.html", "j.xml"))
    with pytest.raises(UsageError, match="UTF-8"):
        in_process("batch", tmp_path / "models", "--init")
    assert not (tmp_path / "models" / "zoo.toml").exists()


def test_code_that_crashes_costs_its_model_alone(tmp_path: Path, command: Command):
    manifest = make_zoo(tmp_path / "zoo", 1, ("abort",))
    (manifest.parent / "trouble.py").write_text("import os\n\nos.abort()\n")
    done = command("batch", manifest, "-o", tmp_path / "out", "--depfile", tmp_path / "zoo.d", *QUICK)
    assert done.returncode == ExitCode.GATE_FAILED, done.stderr
    outcomes = by_name(summary_from_json(done.stdout))
    assert [outcomes[name].status for name in ("group0/model000", "abort0")] == [Status.DONE, Status.CRASHED]
    assert "trouble.py" in (tmp_path / "zoo.d").read_text()


def test_data_for_evaluation_counts_by_itself(tmp_path: Path, command: Command):
    make_model(tmp_path / "models", "a", 0)
    (tmp_path / "models" / "a.calib.npz").rename(tmp_path / "models" / "a.eval.npz")
    done = command("batch", tmp_path / "models", "-o", tmp_path / "out", *QUICK)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "a.report.json").read_text())
    assert report["data"]["evaluation"].endswith("a.eval.npz")
    assert report["accuracy"]["drop"]


def test_results_may_lie_above_the_models(tmp_path: Path, command: Command):
    make_model(tmp_path / "models", "a", 0)
    done = command("batch", "models", "-o", ".", *QUICK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.onnx").exists()


def test_a_baseline_that_holds_nothing_is_refused(tmp_path: Path, command: Command):
    make_model(tmp_path / "models", "a", 0)
    words = ("batch", tmp_path / "models", "-o")
    assert command(*words, tmp_path / "first", *QUICK).returncode == 0
    (tmp_path / "empty").mkdir()
    refused = command(*words, tmp_path / "out", "--baseline", tmp_path / "empty", *QUICK)
    assert refused.returncode == ExitCode.USAGE
    assert "no report of any of these models" in refused.stderr
    make_model(tmp_path / "models", "b", 1)
    done = command(*words, tmp_path / "out", "--baseline", tmp_path / "first", *QUICK[:-1])
    assert done.returncode == 0, done.stderr
    assert "held against nothing: b" in done.stderr


def test_a_cost_file_that_a_run_has_made_is_not_a_change(tmp_path: Path, command: Command):
    make_model(tmp_path, "a", 0)
    manifest = tmp_path / "zoo.toml"
    manifest.write_text('[[models]]\nmodel = "a.onnx"\ndata = "a.calib.npz"\ncost_file = "a.costs.json"\neffort = "quick"\n')
    for reused in (False, True):
        done = command("batch", manifest, "-o", tmp_path / "out", "--format=json", "-q")
        assert [outcome.reused for outcome in summary_from_json(done.stdout).outcomes] == [reused], done.stderr
    assert (tmp_path / "a.costs.json").exists()


def test_fail_fast_ends_at_a_failure_that_stands(tmp_path: Path, command: Command):
    make_model(tmp_path / "models", "a", 0)
    words = ("batch", tmp_path / "models", "-o", tmp_path / "out", "--max-size-ratio=0.01", *QUICK)
    assert command(*words).returncode == ExitCode.GATE_FAILED
    make_model(tmp_path / "models", "b", 1)
    outcomes = by_name(summary_from_json(command(*words, "--fail-fast").stdout))
    assert [outcomes[name].status for name in "ab"] == [Status.GATE_FAILED, Status.NOT_RUN]


@pytest.mark.parametrize("name", ["zoo.toml", "a.onnx", "a.calib.npz", "../out/a.onnx", "../out/summary.json"])
@pytest.mark.parametrize("option", ["--junit", "--depfile"])
def test_files_for_other_programs_replace_nothing(name: str, option: str, tmp_path: Path):
    model = make_model(tmp_path / "zoo", "a", 0)
    (tmp_path / "zoo" / "zoo.toml").write_text('[[models]]\nmodel = "a.onnx"\ndata = "a.calib.npz"\n')
    with pytest.raises(UsageError, match="is also an input"):
        in_process("batch", model.with_name("zoo.toml"), "-o", tmp_path / "out", option, tmp_path / "zoo" / name)
    onnx.checker.check_model(model)


def test_a_batch_that_fails_before_it_begins_tells_ci(tmp_path: Path):
    (tmp_path / "zoo.toml").write_text("[[models]]\nmodle = 'a.onnx'\n")
    with pytest.raises(RecipeError, match="modle"):
        in_process("batch", tmp_path / "zoo.toml", "-o", tmp_path / "out", "--junit", tmp_path / "junit.xml")
    assert "modle" in (tmp_path / "junit.xml").read_text()
    data = tmp_path / "data.npz"
    data.write_bytes(b"PK")
    with pytest.raises(RecipeError, match="modle"):
        in_process("batch", tmp_path / "zoo.toml", "-o", tmp_path / "out", "--junit", data)
    assert data.read_bytes() == b"PK"  # it was not known yet whether this is an input
