"""What goes into an archive, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible.module_utils.onecopy.analysis import archive, handoff
from ansible.module_utils.onecopy.analysis.rebuild import rebuilt_summary
from ansible.module_utils.onecopy.analysis.stored_run import load
from invented_kit import CLAIMS, PROJECT, change_manifest, git, render


def test_the_same_run_gives_the_same_bytes(run: Path, repository: Path, tmp_path: Path) -> None:
    first = handoff.collect(run, repository)
    shutil.copytree(run, tmp_path / "elsewhere" / run.name)
    second = handoff.collect(tmp_path / "elsewhere" / run.name, repository)
    assert archive.pack(first.top, first.files) == archive.pack(second.top, second.files)


def test_everything_is_in_it(run: Path, repository: Path) -> None:
    files = handoff.collect(run, repository).files
    own = {f"run/{path.relative_to(run)}": path.read_bytes() for path in run.rglob("*") if path.is_file()}
    tracked = {f"source/{name}": (repository / name).read_bytes() for name in git(repository, "ls-files").splitlines()}
    assert own.items() <= files.items()
    assert tracked.items() <= files.items()
    assert set(files) - set(own) - set(tracked) == {"experiment.yml", "README.md", "ro-crate-metadata.json"}
    assert files["experiment.yml"] == files["source/experiments/invented.yml"]


def test_what_the_run_did_not_leave_behind_is_said(run: Path, repository: Path) -> None:
    collected = handoff.collect(run, repository)
    assert [line.split(":")[0].rpartition("/")[2] for line in collected.absent] == [
        "kernel.config",
        "guest-kernel.config",
        "dataset.json",
        "manifest.json, hosts.invented-host.images",
        "manifest.json, hosts.invented-host.boots",
    ]
    page = collected.files["README.md"].decode()
    assert all(line.partition(":")[0] in page for line in collected.absent)
    assert "uncommitted" not in page


def test_source_is_the_recorded_revision_not_the_present_one(run: Path, repository: Path) -> None:
    (repository / "onecopy").write_text("#!/bin/sh\necho later\n")
    git(repository, "commit", "--quiet", "--all", "--message", "Change the kit")
    (repository / "stray").write_text("not committed")
    files = handoff.collect(run, repository).files
    assert files["source/onecopy"] == b"#!/bin/sh\n"
    assert "source/stray" not in files


def test_changed_tree_is_refused_or_said_aloud(run: Path, repository: Path) -> None:
    change_manifest(run, controller={"git_revision": git(repository, "rev-parse", "HEAD"), "git_dirty": True})
    render(run)
    with pytest.raises(archive.ArchiveError, match=r"uncommitted changes.*handoff_dirty_allowed=true"):
        handoff.collect(run, repository)
    files = handoff.collect(run, repository, dirty_allowed=True).files
    assert "`source/` is not exactly what ran" in files["README.md"].decode()
    assert "uncommitted changes" in files["ro-crate-metadata.json"].decode()


def test_experiment_of_ones_own_is_found_with_the_run(run: Path, repository: Path) -> None:
    git(repository, "rm", "--quiet", "experiments/invented.yml")
    git(repository, "commit", "--quiet", "--message", "Forget the experiment")
    change_manifest(run, controller={"git_revision": git(repository, "rev-parse", "HEAD"), "git_dirty": False})
    render(run)
    with pytest.raises(
        archive.ArchiveError, match=r"the experiment with digest [0-9a-f]{12} is neither there nor among the kit's"
    ):
        handoff.collect(run, repository)
    text = git(repository, "show", "HEAD~1:experiments/invented.yml")
    (run / "experiment.yml").write_text(f"# mine\n{text}\n")
    assert handoff.collect(run, repository).files["experiment.yml"].startswith(b"# mine")


def spoil(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).unlink()


def alter_a_record(run: Path) -> None:
    results = run / "results.jsonl"
    results.write_text("\n".join(results.read_text().splitlines()[1:]) + "\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoil("plan.json"), "plan.json: is not there"),
        (spoil("manifest.json"), "manifest.json: is not there"),
        (spoil("results.jsonl"), "holds no record"),
        (spoil("report.html"), "report.html missing: render the report first"),
        (spoil("summary.json"), "summary.json missing"),
        (alter_a_record, "summary.json: is not what the records give"),
        (lambda run: change_manifest(run, controller={}), "records no revision"),
        (
            lambda run: change_manifest(run, controller={"git_revision": "f" * 40, "git_dirty": False}),
            "has no revision ffffffffffff",
        ),
        (lambda run: (run / "link").symlink_to("/etc/passwd"), "is a link"),
        (shutil.rmtree, "is not there"),
    ],
)
def test_refusals_are_one_line(run: Path, repository: Path, change: Callable[[Path], None], message: str) -> None:
    change(run)
    with pytest.raises(archive.ArchiveError, match=message) as caught:
        handoff.collect(run, repository)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["{run}", "invented", "invented/{id}", "{id}"])
def test_a_run_is_found_by_every_name(run: Path, name: str) -> None:
    assert handoff.find_run(run.parents[1], name.format(run=run, id=run.name)) == run


@pytest.mark.parametrize("name", ["/nowhere", "/", "smoke", "no/such/run"])
def test_a_run_that_is_not_there_is_refused_with_those_that_are(run: Path, name: str) -> None:
    with pytest.raises(archive.ArchiveError) as caught:
        handoff.find_run(run.parents[1], name)
    assert str(caught.value) == f"no run {name!r} in {run.parents[1]}: there are, newest last, invented/{run.name}"
    with pytest.raises(archive.ArchiveError, match="there is none yet"):
        handoff.find_run(run, name)


def move_the_goal(repository: Path) -> bytes:
    moved = CLAIMS.replace(b"[1.8, ~]", b"[1.9, ~]")
    (repository / "experiments/claims.yml").write_bytes(moved)
    git(repository, "commit", "--quiet", "--all", "--message", "Move the goal")
    return moved


def test_claims_of_the_revision_judge(run: Path, repository: Path) -> None:
    move_the_goal(repository)
    handoff.collect(run, repository)
    change_manifest(run, controller={"git_revision": git(repository, "rev-parse", "HEAD"), "git_dirty": False})
    with pytest.raises(archive.ArchiveError, match="is not what the records give: render the report anew"):
        handoff.collect(run, repository)


def test_a_report_that_was_rendered_anew_by_later_claims_is_archived_by_those_of_its_revision(
    run: Path, repository: Path
) -> None:
    before = handoff.collect(run, repository).files
    moved = move_the_goal(repository)
    (run / "summary.json").write_bytes(rebuilt_summary(load(run), moved))
    (repository / "roles").symlink_to(PROJECT / "roles")
    after = handoff.collect(run, repository).files
    assert (run / "summary.json").read_bytes() != after["run/summary.json"] == before["run/summary.json"]
    assert after["source/experiments/claims.yml"] == CLAIMS
    assert after["run/report.md"].startswith(b"# onecopy: invented")


def test_manifest_names_no_machine_of_the_maker(run: Path, repository: Path) -> None:
    files = handoff.collect(run, repository).files
    made_here = files["README.md"] + files["ro-crate-metadata.json"]
    assert str(run).encode() not in made_here
    assert str(repository).encode() not in made_here
    assert json.loads(files["ro-crate-metadata.json"])["@graph"]
