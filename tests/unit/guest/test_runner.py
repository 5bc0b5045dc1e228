"""The runner as it is shipped, spoken to over a unix socket; and the host's end of the protocol against odd answers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy import guest_root, runner_kernel
from ansible.module_utils.onecopy.runner_client import RunnerClient, RunnerError, RunnerLost


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[RunnerClient]:
    for path, content in guest_root.runner_files().items():
        (tmp_path / "runner" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "runner" / path).write_bytes(content)
    argv = [sys.executable, "-SEs", str(tmp_path / "runner/main.py"), "socket", str(tmp_path / "socket")]
    with subprocess.Popen(argv) as process:
        try:
            client = RunnerClient(tmp_path / "socket")
            deadline = time.monotonic() + 20
            while not client.path.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            client.connect(10)
            yield client
            client.close()
        finally:
            process.terminate()


@pytest.fixture
def tree(disk_path: Path) -> Path:
    (disk_path / "one").write_bytes(b"x" * 10_000)
    (disk_path / "sub").mkdir()
    (disk_path / "sub/two").write_bytes(b"y" * 4096)
    return disk_path


def run(runner: RunnerClient, *pipeline: list[str], timeout_seconds: float = 20) -> dict[str, Any]:
    return runner.call("run", 30, pipeline=list(pipeline), timeout_seconds=timeout_seconds, cwd="/")


def test_hello(runner: RunnerClient) -> None:
    assert runner.hello["version"] == 1
    assert runner.hello["kernel"] == os.uname().release
    assert set(runner.hello) == {"version", "boot_id", "kernel", "python", "uptime_seconds"}


def test_files_are_changed_and_watched(runner: RunnerClient, tree: Path) -> None:
    path = str(tree / "one")
    ways = ("descriptor", "open", "stat", "listing", "mapped")
    cases = [{"path": path, "observer": way, "offset": 0} for way in ways]
    before = runner.call("watch", 10, cases=cases)["seen"]
    assert before[0] == before[1] == before[4] == (b"x" * 64).hex()
    assert before[2].startswith("10000 ")
    assert runner.call("look", 10)["seen"] == before
    runner.call("alter", 10, changes=[{"path": path, "change": "overwrite"}])
    assert [was != now for was, now in zip(before, runner.call("look", 10)["seen"], strict=True)] == [
        True, True, True, False, True,
    ]  # fmt: skip
    runner.call("alter", 10, changes=[{"path": path, "change": "append"}, {"path": path, "change": "overwrite_end"}])
    assert (tree / "one").read_bytes() == b"n" * 64 + b"x" * (10_000 - 64) + b"n" * 64
    runner.call("alter", 10, changes=[{"path": path, "change": "remove"}])
    held, *others, mapped = runner.call("look", 10)["seen"]
    assert held == mapped == (b"n" * 64).hex()
    assert others == ["absent"] * 3
    runner.call("alter", 10, changes=[{"path": path, "change": "create"}, {"path": path, "change": "replace"}])
    assert runner.call("look", 10)["seen"][3] == "present"
    assert runner.call("watch", 10, cases=[])["seen"] == []


def test_what_may_make_one_guest_differ_from_another_is_told(runner: RunnerClient) -> None:
    facts = runner.call("facts", 10)
    assert facts["swaps"] >= 0
    assert facts["settings"]["swappiness"].isdigit()
    for mount in facts["mounts"]:
        assert {"source", "target", "fstype", "options"} <= set(mount)
        assert mount["fstype"] in ("ext4", "erofs", "virtiofs")


def test_a_setting_that_is_a_choice_is_the_chosen_one(tmp_path: Path) -> None:
    (tmp_path / "choice").write_text("always [madvise] never\n")
    assert runner_kernel._setting(str(tmp_path / "choice")) == "madvise"
    assert runner_kernel._setting(str(tmp_path / "none")) is None


def test_a_pipeline_is_timed_and_its_bytes_are_counted(runner: RunnerClient, tree: Path) -> None:
    result = run(runner, ["cat", str(tree / "one")], ["wc", "-c"])
    assert result["exit_codes"] == [0, 0]
    assert 20_000 <= result["read_bytes"] < 200_000
    assert 0 < result["wall_seconds"] < 10
    assert not result["timed_out"]


def test_what_children_of_a_program_read_is_counted(runner: RunnerClient, tree: Path) -> None:
    result = run(runner, ["find", str(tree), "-type", "f", "-exec", "cat", "{}", ";"])
    assert result["read_bytes"] >= 14_096
    assert result["written_bytes"] == 14_096


def test_exit_codes_signals_and_stderr(runner: RunnerClient) -> None:
    result = run(runner, ["sh", "-c", "echo wrong >&2; exit 3"], ["sh", "-c", "kill -9 $$"])
    assert result["exit_codes"] == [3, -9]
    assert result["stderr"] == "wrong\n"


def test_only_the_end_of_stderr_is_kept(runner: RunnerClient) -> None:
    result = run(runner, ["sh", "-c", "seq 5000 >&2"])
    assert len(result["stderr"]) == 2048
    assert result["stderr"].endswith("5000\n")


def test_a_timeout_ends_the_whole_pipeline(runner: RunnerClient) -> None:
    result = run(runner, ["sh", "-c", "sleep 4711"], ["cat"], timeout_seconds=0.3)
    assert result["timed_out"]
    assert result["exit_codes"][0] == -9
    assert result["wall_seconds"] < 5


def test_a_program_that_is_not_there(runner: RunnerClient) -> None:
    with pytest.raises(RunnerError, match="no-such-program: No such file") as caught:
        run(runner, ["cat", "/dev/zero"], ["no-such-program"])
    assert caught.value.reason == "workload_failed"
    assert run(runner, ["true"])["exit_codes"] == [0]


def test_a_workload_ends_when_the_host_goes_away(runner: RunnerClient, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    assert runner._socket
    script = f"echo $$ > {mark}; exec sleep 4711"
    request = {"id": 1, "op": "run", "pipeline": [["sh", "-c", script]], "timeout_seconds": 60, "cwd": "/"}
    runner._socket.sendall(json.dumps(request).encode() + b"\n")
    deadline = time.monotonic() + 10
    while not (mark.exists() and mark.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.01)
    pid = int(mark.read_text())
    runner.close()
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists()
    runner.connect(10)
    assert run(runner, ["true"])["exit_codes"] == [0]


def test_residency_on_held_descriptors_and_without(runner: RunnerClient, tree: Path) -> None:
    parts = {"all": str(tree)}
    assert runner.call("hold", 10, parts=parts) == {"all": {"files": 2, "pages": 4}}
    assert runner.call("prefetch", 10, trees=[str(tree)]) == {"bytes": 14_096}
    os.sync()
    expected = {"files": 2, "pages": 4, "resident_pages": 4, "dirty_pages": 0, "dax_files": 0, "dax_pages": 0}
    assert runner.call("residency", 10, parts=parts) == {"all": expected}
    (tree / "three").write_bytes(b"z")
    assert runner.call("residency", 10, parts=parts)["all"]["files"] == 2
    runner.call("release", 10)
    assert runner.call("residency", 10, parts=parts)["all"]["files"] == 3


def test_which_pages_of_held_files_are_cached_and_evicting_some(runner: RunnerClient, tree: Path) -> None:
    # Ranges as large as the largest folio that a kernel caches in one piece.
    folio = 2 << 20
    (tree / "two_folios").write_bytes(b"z" * 2 * folio)
    os.sync()
    runner.call("hold", 10, parts={"all": str(tree)})
    runner.call("prefetch", 10, trees=[str(tree)])
    assert runner.call("resident_runs", 10, parts=["all"]) == {
        "all": {"0": [[0, 3]], "1": [[0, 2 * folio // 4096]], "2": [[0, 1]]}
    }
    assert runner.call("evict", 10, ranges={"all": [[1, folio, folio], [7, 0, 1]]}) == {"let_go": 0}
    assert runner.call("resident_runs", 10, parts=["all"])["all"]["1"] == [[0, folio // 4096]]
    with pytest.raises(RunnerError, match="KeyError"):
        runner.call("resident_runs", 10, parts=["nobody holds this"])


def test_memory_counters_and_statfs(runner: RunnerClient, tree: Path) -> None:
    memory = runner.call("memory", 10)
    assert memory["MemTotal"] >= memory["MemFree"] > 0
    assert memory["MemTotal"] % 1024 == 0
    counters = runner.call("counters", 10)
    assert set(counters) == {"block", "vmstat", "cpu"}
    assert counters["cpu"]["user"] > 0
    status = runner.call("statfs", 10, target=str(tree))
    assert status["total_bytes"] > status["free_bytes"] >= status["available_bytes"]


def test_errors_are_answers(runner: RunnerClient) -> None:
    for op, arguments, reason in (
        ("nonsense", {}, "internal"),
        ("statfs", {}, "internal"),
        ("mount", {"source": "/none", "target": "/no/such/place", "fstype": "ext4", "options": "ro"}, "mount_failed"),
        ("run", {"pipeline": [], "timeout_seconds": 1}, "workload_failed"),
        ("hold", {"parts": {"x": "/no/such/place"}}, "internal"),
    ):
        with pytest.raises(RunnerError) as caught:
            runner.call(op, 10, **arguments)
        assert caught.value.reason == reason
    assert runner.call("hello", 10)["version"] == 1


def test_a_torn_request_dies_with_its_connection(runner: RunnerClient) -> None:
    assert runner._socket
    runner._socket.sendall(b'{"id": 5, "op": "hel')
    runner.connect(10)
    assert runner.hello["version"] == 1


def test_poweroff_of_a_runner_on_the_host_ends_only_itself(runner: RunnerClient) -> None:
    assert runner.call("poweroff", 10) == {}
    with pytest.raises(RunnerLost):
        runner.call("hello", 5)


class FakeRunner:
    """Answers every request line by what ``answer`` makes of it."""

    def __init__(self, path: Path, answer: Any) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.answer = answer
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        connection, _ = self.listener.accept()
        with connection, connection.makefile("rb") as stream:
            for line in stream:
                reply = self.answer(json.loads(line))
                if reply is None:
                    return
                connection.sendall(reply)


def _line(request_id: int, **result: object) -> bytes:
    return json.dumps({"id": request_id, "ok": True, "result": result}).encode() + b"\n"


def test_stale_and_torn_lines_are_thrown_away(tmp_path: Path) -> None:
    noise = b'sult": 3}\n[]\n' + _line(1, version=9) + b"\n"
    FakeRunner(tmp_path / "s", lambda request: noise + _line(request["id"], version=1))
    client = RunnerClient(tmp_path / "s")
    client.connect(5)
    assert client.hello == {"version": 1}


def test_another_version_is_refused(tmp_path: Path) -> None:
    FakeRunner(tmp_path / "s", lambda request: _line(request["id"], version=2))
    with pytest.raises(RunnerError, match="speaks version 2"):
        RunnerClient(tmp_path / "s").connect(5)


def test_a_socket_that_does_not_listen_yet_is_waited_for(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))

    def serve() -> None:
        time.sleep(0.2)
        listener.listen(1)
        connection, _ = listener.accept()
        with connection:
            request = json.loads(connection.recv(4096))
            connection.sendall(_line(request["id"], version=1))

    thread = threading.Thread(target=serve)
    thread.start()
    RunnerClient(tmp_path / "s").connect(10)
    thread.join()


def test_silence_and_hang_up_are_losses(tmp_path: Path) -> None:
    FakeRunner(tmp_path / "silent", lambda request: b"")
    with pytest.raises(RunnerLost, match=r"no answer in time|timed out"):
        RunnerClient(tmp_path / "silent").connect(0.2)
    FakeRunner(tmp_path / "gone", lambda request: None)
    with pytest.raises(RunnerLost, match="hung up"):
        RunnerClient(tmp_path / "gone").connect(5)
    with pytest.raises(RunnerLost):
        RunnerClient(tmp_path / "nobody").connect(1)
