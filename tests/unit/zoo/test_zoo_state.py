"""Keys, results that stand, locks and places."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from many_models import make_model

from qcompress.errors import OutputError, UsageError
from qcompress.zoo.discovery import Entry
from qcompress.zoo.inputs import Inputs
from qcompress.zoo.jobs import (
    Event,
    Figures,
    Job,
    Kind,
    Limits,
    Outcome,
    Status,
    Summary,
    job_from_json,
    outcome_from_json,
    summary_from_json,
    to_json,
)
from qcompress.zoo.keys import Keys, key_of
from qcompress.zoo.places import digest_file, publish
from qcompress.zoo.quiet import Quiet
from qcompress.zoo.run import decide, make_jobs, refuse_overwriting
from qcompress.zoo.state import (
    SCRATCH,
    State,
    begin_run,
    end_run,
    locked,
    read_state,
    running,
    standing,
    state_path,
    write_state,
)

FIGURES = Figures(1000, 250, speedup=1.5, drop=0.01, drop_of="accuracy")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    model = make_model(tmp_path, "small", 0)
    target = tmp_path / "out" / "small.onnx"
    return Job("small", str(model), str(target), str(model.with_suffix(".calib.npz")), options={"--seed": ("1",)})


def parts_after(job: Job) -> dict[str, str]:
    return Keys().parts(job)


def changed(one: dict[str, str], other: dict[str, str]) -> set[str]:
    return {name for name in one if one[name] != other[name]}


def test_values_survive_json():
    job = Job("a/b", "/m.onnx", "/o/a/b.onnx", "random", None, {"--seed": ("1",), "--no-latency": ()}, Limits(3.0, 4))
    outcome = Outcome("a/b", Status.DONE, "key", figures=FIGURES, files={"b.onnx": "00"}, notes=("x",), peak=5)
    summary = Summary((outcome, Outcome("c", Status.CRASHED, cause="SIGSEGV")), 2.0, 3, {"qcompress": "1"})
    assert job_from_json(to_json(job)) == job
    assert outcome_from_json(to_json(outcome)) == outcome
    assert summary_from_json(to_json(summary)) == summary
    assert "advanced" in to_json(Event("a", Kind.ADVANCED))
    assert job.arguments() == ["--data=random", "--no-latency", "--seed=1"]


def test_the_key_follows_content_and_not_names_or_times(job: Job, tmp_path: Path):
    before = parts_after(job)
    os.utime(job.model, (1, 1))
    assert parts_after(job) == before
    moved = Path(job.model).rename(tmp_path / "other.onnx")
    assert changed(parts_after(replace(job, model=str(moved))), before) == {"model"}  # its name is in its report
    moved.rename(job.model)
    Path(job.model).write_bytes(Path(job.model).read_bytes() + b"\0")
    assert changed(parts_after(job), before) == {"model"}


def test_every_part_of_the_key_counts(job: Job, tmp_path: Path):
    before = parts_after(job)
    assert changed(parts_after(replace(job, data=None)), before) == {"data"}
    assert changed(parts_after(replace(job, eval_data="random")), before) == {"evaluation data"}
    assert changed(parts_after(replace(job, options={"--seed": ("2",)})), before) == {"options"}
    assert changed(parts_after(replace(job, limits=Limits(1.0), memory=7)), before) == set()
    np.savez(job.data or "", x=np.zeros((4, 16), np.float32))
    assert changed(parts_after(job), before) == {"data"}
    recipe = tmp_path / "mine.toml"
    recipe.write_text("mode = 'weights'")
    named = replace(job, options={"--recipe": (str(recipe),)})
    before = parts_after(named)
    recipe.write_text("mode = 'static'")
    assert changed(parts_after(named), before) == {"options"}


def test_data_made_by_code_changes_with_the_code(job: Job, tmp_path: Path):
    code = tmp_path / "my_batches_for_keys.py"
    code.write_text("def feeds():\n    yield {}\n")
    made = replace(job, data="my_batches_for_keys:feeds", folder=str(tmp_path))
    before = parts_after(made)
    code.write_text("def feeds():\n    yield {'x': 1}\n")
    assert changed(parts_after(made), before) == {"data"}


def test_external_data_belongs_to_the_model(tmp_path: Path):
    import onnx

    model = make_model(tmp_path, "plain", 1)
    proto = onnx.load(model)
    onnx.save(proto, tmp_path / "outside.onnx", save_as_external_data=True, location="outside.bin", size_threshold=0)
    job = Job("outside", str(tmp_path / "outside.onnx"), str(tmp_path / "out.onnx"))
    before = parts_after(job)
    weights = tmp_path / "outside.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert changed(parts_after(job), before) == {"model"}


def test_what_cannot_be_read_has_a_key_too(job: Job):
    Path(job.model).write_bytes(b"no model")
    broken = key_of(parts_after(job))
    Path(job.model).unlink()
    assert key_of(parts_after(replace(job, data="nowhere.npz"))) != broken


def settled(job: Job, status: Status = Status.DONE, run: str = "") -> dict[str, str]:
    """Pretend that the job has run."""
    parts = parts_after(job)
    target = Path(job.target)
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(b"result")
    outcome = Outcome(job.name, status, key_of(parts), files={target.name: digest_file(target)})
    write_state(job, State(parts, outcome, run), target.parent / SCRATCH)
    return parts


def test_a_result_stands_until_something_changes(job: Job):
    assert standing(job, parts_after(job), "") == (None, "there is no result yet")
    parts = settled(job)
    outcome, _ = standing(job, parts, "")
    assert outcome is not None
    assert outcome.reused
    assert standing(job, {**parts, "model": "other", "data": "other"}, "") == (None, "changed: model, data")
    Path(job.target).write_bytes(b"edited")
    assert standing(job, parts, "") == (None, "results are missing or were changed")
    path = Path(state_path(job))
    path.write_text(path.read_text()[:-20])
    assert standing(job, parts, "") == (None, "there is no result yet")


def test_a_failure_stands_only_within_the_interrupted_run(job: Job):
    parts = settled(job, Status.CRASHED, "first")
    assert standing(job, parts, "second") == (None, "crashed last time")
    assert standing(job, parts, "first")[0] is not None


def test_an_interrupted_run_goes_on_under_its_name_unless_the_limits_differ(tmp_path: Path):
    with locked(tmp_path):
        first = begin_run(tmp_path, "limits")
    with locked(tmp_path):
        assert begin_run(tmp_path, "limits") == first == running(tmp_path, "limits")
        assert begin_run(tmp_path, "other limits") != first
        end_run(tmp_path)
        assert running(tmp_path, "other limits") == ""


def test_only_one_run_holds_the_folder_and_finds_it_clean(tmp_path: Path):
    with locked(tmp_path) as scratch:
        (scratch / "job-left").mkdir()
        (scratch / "x.json.1.part").touch()
        with pytest.raises(OutputError, match="another run"), locked(tmp_path):
            pass
    with locked(tmp_path) as scratch:
        assert [item.name for item in scratch.iterdir()] == ["lock"]


def test_forced_jobs_run_whatever_stands(job: Job):
    settled(job)
    assert [decision.outcome is None for decision in decide([job])] == [False]
    (decision,) = decide([job], force=True)
    assert (decision.outcome, decision.reason) == (None, "forced")
    assert decision.job.key
    assert decision.job.memory > 0


def test_results_go_where_the_names_say_and_never_over_a_model(tmp_path: Path):
    entries = [Entry("deep/a", str(tmp_path / "a.onnx"), seconds=3.0), Entry("b", str(tmp_path / "b.onnx"))]
    first, second = make_jobs(entries, tmp_path / "out", tmp_path, Limits(9.0, 5))
    assert first.target == str(tmp_path / "out" / "deep" / "a.onnx")
    assert (first.report_name, first.log_name) == ("a.report.json", "a.log")
    assert (first.limits, second.limits) == (Limits(3.0, 5), Limits(9.0, 5))
    for others in (("B", "b"), ("a", "a")):
        pair = [Entry(name, f"/{place}.onnx") for name, place in zip(others, "xy", strict=True)]
        with pytest.raises(UsageError, match="one file"):
            make_jobs(pair, tmp_path / "out", tmp_path, Limits())


@pytest.mark.parametrize(
    ("model", "out"),
    [
        ("zoo/a.onnx", "zoo"),
        ("zoo/a.onnx", "link"),
        ("zoo/a.onnx", "zoo/deep/.."),
        ("link/a.onnx", "zoo"),
        ("file://{}/zoo/a.onnx", "zoo"),
        ("zoo/a.onnx", "file://{}/zoo"),
        ("file://{}/zoo/a.onnx", "file://{}//zoo"),
        ("memory://zoo/a.onnx", "memory://zoo/"),
        ("zoo/other.onnx", "zoo"),
        ("far/a.onnx", "link"),
    ],
)
def test_no_result_replaces_what_is_read_however_it_is_spelled(model: str, out: str, tmp_path: Path):
    pytest.importorskip("fsspec")
    (tmp_path / "zoo" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("zoo")
    for folder, target in (("far", "../near/a.onnx"), ("near", "../link/a.onnx")):  # a link to a link
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.onnx").symlink_to(target)
    text = "<ir_version: 8, opset_import: ['': 17]> net (float[4] x) => (float[4] y) { y = Add (x, w) }".replace("'", '"')
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(4, np.float32), "w"))
    onnx.save(proto, tmp_path / "zoo" / "a.onnx")
    onnx.save(  # its weights lie where those of a.onnx would
        proto, tmp_path / "zoo" / "other.onnx", save_as_external_data=True, size_threshold=0, location="a.onnx.data"
    )

    def place(text: str) -> str:
        return text.format(tmp_path) if "://" in text else str(tmp_path / text)

    (one,) = make_jobs([Entry("a", place(model))], place(out), tmp_path, Limits())
    with pytest.raises(UsageError, match="would replace"):
        refuse_overwriting([one], Inputs())
    refuse_overwriting([replace(one, target=str(tmp_path / "elsewhere" / "a.onnx"))], Inputs())


def test_a_url_out_of_reach_is_its_jobs_trouble(job: Job):
    refuse_overwriting([replace(job, model="nowhere://bucket/a.onnx", data="nowhere://bucket/data")], Inputs())


def test_what_changes_during_a_run_is_a_change_but_for_its_own_measurements(job: Job, tmp_path: Path):
    costs = tmp_path / "costs.json"
    measured = replace(job, options={"--cost-file": (str(costs),)})
    before = Keys().parts(measured)
    costs.write_text("{}")
    assert changed(before, Keys().parts(measured)) == {"measurements"}
    assert {**before, **Keys().written_by_run(measured)} == Keys().parts(measured)


def test_the_key_knows_the_function_and_its_code_alone(job: Job, tmp_path: Path):
    for name in ("first", "second"):
        (tmp_path / f"{name}.py").write_text("def small():\n    yield {}\n\n\ndef large():\n    yield {}\n")
    one = replace(job, data="first:small", folder=str(tmp_path))
    parts = Keys().parts(one)
    assert parts["data"] != Keys().parts(replace(one, data="first:large"))["data"]
    scored = replace(one, options={"--metric": ("second:large",)})
    keys = Keys()
    assert keys.parts(one) == parts
    before = keys.parts(scored)["options"]
    (tmp_path / "second.py").write_text("def large():\n    return 1\n")
    assert Keys().parts(scored)["options"] != before
    assert Keys().parts(one) == parts


@pytest.mark.parametrize(
    "code", ["import os; os.abort()", "import time; time.sleep(1000)", "1 / 0", "import sys; sys.exit(0)"]
)
def test_code_that_cannot_be_imported_counts_with_its_own_file(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("qcompress.zoo.inputs.CODE_SECONDS", 3)
    (tmp_path / "bad.py").write_text(code)
    assert Inputs().data("bad:feeds", str(tmp_path)) == (tmp_path / "bad.py",)


def test_a_pipe_is_no_model_and_nobody_waits_for_it(job: Job, tmp_path: Path):
    os.mkfifo(tmp_path / "a.onnx")
    assert Keys().parts(replace(job, model=str(tmp_path / "a.onnx")))["model"]


def test_names_can_be_any_bytes(job: Job, tmp_path: Path):
    name = os.fsdecode(b"\xff.onnx")
    (tmp_path / name).write_bytes(b"no model")
    one = replace(job, model=str(tmp_path / name))
    assert Keys().parts(one)["model"]
    state = State({"model": name}, Outcome(name, Status.DONE), "run")
    write_state(one, state, tmp_path / "scratch")
    assert read_state(one) == state


def test_a_result_goes_to_another_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source, real = tmp_path / "m.onnx", Path.replace
    source.write_bytes(b"one")

    def replace_on_one_disk(self: Path, target: Path) -> Path:
        if self.parent != target.parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace_on_one_disk)
    publish({"m.onnx": source}, str(tmp_path / "out" / "m.onnx"), [])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["m.onnx"]
    assert (tmp_path / "out" / "m.onnx").read_bytes() == b"one"


def test_publishing_leaves_equal_files_alone_and_removes_the_obsolete(tmp_path: Path):
    source, target = tmp_path / "new", tmp_path / "out" / "deep" / "m.onnx"
    source.mkdir()
    target.parent.mkdir(parents=True)
    for name, old, new in (("m.onnx", b"one", b"one"), ("m.report.json", b"one", b"two")):
        (source / name).write_bytes(new)
        (target.parent / name).write_bytes(old)
        os.utime(target.parent / name, (1, 1))
    (target.parent / "m.onnx.data").write_bytes(b"old weights")
    files = {path.name: path for path in source.iterdir()}
    digests = publish(files, str(target), ["m.onnx.data", "m.onnx"])
    assert sorted(path.name for path in target.parent.iterdir()) == ["m.onnx", "m.report.json"]
    assert target.stat().st_mtime == 1
    assert (target.parent / "m.report.json").read_bytes() == b"two"
    assert digests["m.onnx"] == digest_file(target)


def test_one_measures_and_the_others_see_it(tmp_path: Path):
    first, second, third = (Quiet(tmp_path / "lock") for _ in range(3))
    assert not first.wanted_elsewhere()
    assert first.take()
    assert first.take()
    assert not second.take()
    assert third.wanted_elsewhere()
    assert not first.wanted_elsewhere()
    first.give_back()
    assert second.take()
    assert not first.held


def test_without_a_lock_everybody_may_measure(tmp_path: Path):
    nowhere = Quiet(tmp_path / "missing" / "lock")
    assert not nowhere.wanted_elsewhere()
    assert nowhere.take()
    nowhere.give_back()


def test_at_a_url_neighbours_that_may_be_weights_count_and_others_do_not(job: Job, tmp_path: Path):
    pytest.importorskip("fsspec")
    one = replace(job, model=f"file://{job.model}", data=f"file://{tmp_path}/sets")
    for name in ("other.onnx", "weights.bin", "sets/test_data_set_0/input_0.pb", "sets/out/result.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"one")

    def after(name: str) -> set[str]:
        before = Keys().parts(one)
        (tmp_path / name).write_bytes(b"another")
        os.utime(tmp_path / name, (1, 1))
        return changed(before, Keys().parts(one))

    assert after("weights.bin") == {"model"}
    assert after("sets/test_data_set_0/input_0.pb") == {"data"}
    assert after("other.onnx") == after("notes.txt") == after("sets/out/result.json") == set()
