"""The same command goes on with an unfinished run of the same plan, and starts a new one otherwise."""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy import lock, run_directory

PROJECT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PLAN: dict[str, Any] = {
    "experiment": "tiny",
    "digest": "d",
    "seed": 1,
    "accelerator": "tcg",
    "dataset": {},
    "guest": {},
    "workloads": {},
    "trials": [{"id": "0" * 16}, {"id": "1" * 16}],
}


def begin(
    top: Path,
    plan: dict[str, Any] = PLAN,
    hosts: tuple[str, ...] = ("box1",),
    later: int = 0,
    project: Path = Path("/"),
    **more: Any,
) -> tuple[Any, bool]:
    return run_directory.find_or_start(top, plan, hosts, project, now=NOW + timedelta(seconds=later), **more)


def finish(run: run_directory.RunDirectory, host: str = "box1") -> None:
    run.update_host(host, lambda entry: entry.update(finished_at="now"))


def test_new_run_has_plan_and_manifest(tmp_path: Path) -> None:
    run, is_old = begin(tmp_path, project=PROJECT)
    assert (run.run_id, is_old) == ("20260102T030405Z", False)
    assert run.path == tmp_path / "tiny" / run.run_id
    assert run.plan() == PLAN
    manifest = run.manifest()
    assert manifest["hosts"] == {"box1": {}}
    assert {"schema", "experiment", "run_id", "digest", "seed", "accelerator", "started_at", "controller"} <= set(
        manifest
    )
    assert len(manifest["controller"]["git_revision"]) == 40
    assert isinstance(manifest["controller"]["git_dirty"], bool)


def test_unfinished_run_goes_on(tmp_path: Path) -> None:
    first, _ = begin(tmp_path)
    assert begin(tmp_path, later=60) == (first, True)


def test_finished_run_is_not_touched(tmp_path: Path) -> None:
    first, _ = begin(tmp_path)
    finish(first)
    second, is_old = begin(tmp_path, later=60)
    assert not is_old
    assert second.path != first.path


@pytest.mark.parametrize("change", [{"digest": "e"}, {"accelerator": "kvm"}, {"trials": [{"id": "2" * 16}]}])
def test_other_plan_is_another_run(tmp_path: Path, change: dict[str, Any]) -> None:
    begin(tmp_path)
    assert begin(tmp_path, PLAN | change, later=60)[1] is False


def test_two_runs_in_one_second_get_two_names(tmp_path: Path) -> None:
    first, _ = begin(tmp_path)
    second, _ = begin(tmp_path, PLAN | {"digest": "e"})
    assert [first.run_id, second.run_id] == ["20260102T030405Z", "20260102T030405Z_2"]


def test_hosts_of_one_command_share_a_run_and_one_that_is_new_does_not(tmp_path: Path) -> None:
    first, _ = begin(tmp_path, hosts=("box1", "box2"))
    finish(first)
    assert begin(tmp_path, hosts=("box1", "box2"), later=1) == (first, True)
    assert begin(tmp_path, hosts=("box3",), later=2)[1] is False


def test_finished_run_will_do_where_nothing_is_to_be_repeated(tmp_path: Path) -> None:
    first, _ = begin(tmp_path)
    finish(first)
    assert begin(tmp_path, later=60, is_repeated=False) == (first, True)
    assert begin(tmp_path, PLAN | {"digest": "e"}, later=60, is_repeated=False)[1] is False


def test_run_without_a_manifest_is_no_run(tmp_path: Path) -> None:
    first, _ = begin(tmp_path)
    (first.path / "manifest.json").unlink()
    assert begin(tmp_path, later=60)[1] is False


def test_fetching_twice_stores_once(tmp_path: Path) -> None:
    run, _ = begin(tmp_path)
    one, two = ({"id": character * 16, "order": order, "host": "box1"} for order, character in enumerate("01"))
    assert run.add_records("box1", [one]) == [one]
    assert run.add_records("box1", [one, two, two]) == [two]
    assert run.add_records("box2", [one | {"host": "box2"}]) == [one | {"host": "box2"}]
    assert run.done("box1") == {"0" * 16, "1" * 16}
    assert len(run.results.read_text().splitlines()) == 3


def test_refused_run_leaves_nothing_and_a_started_one_stays(tmp_path: Path) -> None:
    refused, _ = begin(tmp_path)
    refused.discard_if_empty()
    assert not refused.path.exists()
    started, _ = begin(tmp_path)
    started.update_host("box1", lambda entry: entry.update(kernel="6"))
    started.discard_if_empty()
    assert started.path.exists()


def test_no_place_for_reports_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "tiny").write_text("a file")
    with pytest.raises(
        run_directory.RunDirectoryError, match=r"tiny: cannot be written: File exists: give the reports another place\Z"
    ):
        begin(tmp_path)


def _worker(tmp_path: Path) -> tuple[int, int]:
    """A controller with a worker that has the claim; their pids."""
    told, tell = os.pipe()
    controller = os.fork()
    if controller == 0:
        if os.fork() == 0:
            run_directory.claim(tmp_path, "tiny", "box1")
            os.write(tell, str(os.getpid()).encode())
        time.sleep(60)
        os._exit(0)
    worker = int(os.read(told, 20))
    os.close(told)
    os.close(tell)
    return controller, worker


def test_a_second_controller_is_refused_and_other_hosts_and_experiments_are_not(tmp_path: Path) -> None:
    controller, worker = _worker(tmp_path)
    try:
        with pytest.raises(
            run_directory.RunDirectoryError, match=rf"another controller \(pid {controller}\) works on this"
        ):
            run_directory.claim(tmp_path, "tiny", "box1")
        for experiment, host in (("tiny", "box2"), ("other", "box1")):
            os.close(run_directory.claim(tmp_path, experiment, host))
    finally:
        os.kill(worker, signal.SIGKILL)
        os.kill(controller, signal.SIGKILL)
        os.waitpid(controller, 0)
    os.close(run_directory.claim(tmp_path, "tiny", "box1"))


def test_a_worker_whose_controller_was_killed_is_ended(tmp_path: Path) -> None:
    controller, worker = _worker(tmp_path)
    os.kill(controller, signal.SIGKILL)
    os.waitpid(controller, 0)
    os.close(run_directory.claim(tmp_path, "tiny", "box1"))
    # Ended, and perhaps not yet collected by whoever inherited it.
    stat = Path(f"/proc/{worker}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_the_pid_of_another_machines_worker_is_nobodys_here(tmp_path: Path) -> None:
    innocent = os.fork()
    if innocent == 0:
        time.sleep(60)
        os._exit(0)
    (tmp_path / "tiny").mkdir()
    fd = lock.acquire(tmp_path / "tiny/.box1.lock", {"pid": innocent, "controller": 1})
    try:
        with pytest.raises(run_directory.RunDirectoryError, match="another controller"):
            run_directory.claim(tmp_path, "tiny", "box1")
        assert os.waitpid(innocent, os.WNOHANG) == (0, 0)
    finally:
        os.kill(innocent, signal.SIGKILL)
        os.waitpid(innocent, 0)
        os.close(fd)
