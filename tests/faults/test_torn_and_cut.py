"""Files that end too early: a line that a kill tore off, an archive that was not copied whole. No guest is needed for it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from ansible.module_utils.onecopy import records, run_directory
from ansible.module_utils.onecopy.analysis import archive, stored_run
from ansible.module_utils.onecopy.paths import HostPaths
from fake_testbed import FakeTestbed
from fakes import RUN, found, go, is_complete, plan
from points import CHEAP, Told, draw


@pytest.mark.fault("torn last line in the KVM host's results")
@pytest.mark.parametrize("point", range(CHEAP))
def test_torn_line_on_the_host(host: HostPaths, point: int, told: Told) -> None:
    chance = draw("torn host", point)
    kept = chance.randrange(1, len(plan()["trials"]))
    while len(found(host)) < kept:
        go(host, FakeTestbed(host.state), seconds=0)
    results, log = host.run(RUN) / "results.jsonl", host.state / "runs.log"
    lines = results.read_bytes().splitlines(keepends=True)
    whole = b"".join(lines[:-1])
    # From one byte to all but the last of the line's own: the newline alone makes no difference to a record.
    results.write_bytes(whole + lines[-1][: chance.randrange(1, len(lines[-1]) - 1)])
    ran = len(log.read_text().splitlines())

    go(host, FakeTestbed(host.state))

    assert results.read_bytes().startswith(whole)
    assert is_complete(found(host))
    assert len(log.read_text().splitlines()) - ran == len(plan()["trials"]) - kept + 1
    told("that trial ran again, and no other", kept - 1)


@pytest.mark.fault("torn last line in the controller's results")
@pytest.mark.parametrize("point", range(CHEAP))
def test_torn_line_on_the_controller(host: HostPaths, tmp_path: Path, point: int, told: Told) -> None:
    go(host, FakeTestbed(host.state))
    every = found(host)
    run, _ = run_directory.find_or_start(tmp_path, plan(), ["box1"], Path("/"), now=datetime.now(UTC))
    chance = draw("torn controller", point)
    kept = chance.randrange(1, len(every))
    run.add_records("box1", every[:kept])
    content = run.results.read_bytes()
    last = content.splitlines(keepends=True)[-1]
    run.results.write_bytes(content[: len(content) - len(last) + chance.randrange(1, len(last) - 1)])
    assert len(run.done("box1")) == kept - 1

    # What the same command does: it fetches from the start and stores what is missing.
    run.add_records("box1", every)

    stored = records.read(run.results)
    assert is_complete(stored.records)
    assert stored.torn == 1
    assert len(stored_run.load(run.path).records) == len(every)
    told("fetched again, stored once", kept - 1)


@pytest.mark.fault("archive cut short")
@pytest.mark.parametrize("point", range(CHEAP))
def test_archive_cut_short(tmp_path: Path, point: int, told: Told) -> None:
    path = tmp_path / "run.tar"
    archive.write(path, "onecopy-run", {"run/results.jsonl": b'{"id": 1}\n' * 200, "run/plan.json": b"{}\n"})
    content = path.read_bytes()
    path.write_bytes(content[: draw("archive", point).randrange(len(content))])
    with pytest.raises(archive.ArchiveError) as caught:
        archive.read(path)
    assert str(caught.value).startswith(f"{path}: cut short: ")
    assert "\n" not in str(caught.value)
    path.write_bytes(content)
    assert set(archive.read(path).files) == {"run/results.jsonl", "run/plan.json"}
    told("refused in one line that says so")
