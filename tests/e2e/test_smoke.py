"""The main job as a newcomer runs it: one command, a KVM host in a box, real guests, a report."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
EXPERIMENT = yaml.safe_load((PROJECT / "experiments/smoke.yml").read_text())
# What the storage path says, for data that were read in full over a cold guest cache; see the README.
COPIES = {
    "hfs": 1.0,
    "gfs": 2.0,
    "gfs_again": 2.0,
    "gfs_direct": 1.0,
    "virtiofs_never": 1.0,
    "virtiofs_auto": 2.0,
    "virtiofs_always": 2.0,
    "gfs_pmem_dax": 1.0,
}
TOLERANCE = 0.03

Run = dict[str, Any]


def onecopy(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROJECT / "onecopy", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def smoke(shown: Callable[[], AbstractContextManager[None]]) -> Run:
    """One run of experiments/smoke.yml, its lines shown as they come."""
    argv = [PROJECT / "onecopy", "run", "smoke"]
    lines = []
    with (
        shown(),
        subprocess.Popen(argv, cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            print("  " + line, end="", flush=True)
            lines.append(line)
        code = process.wait()
    directory = max((PROJECT / "reports/smoke").iterdir())
    return {"code": code, "output": "".join(lines), "directory": directory}


@pytest.fixture
def summary(smoke: Run) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((smoke["directory"] / "summary.json").read_text())
    return content


@pytest.fixture
def records(smoke: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (smoke["directory"] / "results.jsonl").read_text().splitlines()]


def test_it_ends_well_and_says_where_the_report_is(smoke: Run) -> None:
    assert smoke["code"] == 0
    assert str(smoke["directory"] / "report.html") in smoke["output"]


def test_every_planned_trial_is_ok(summary: dict[str, Any], records: list[dict[str, Any]]) -> None:
    bad = [(r["label"], r["workload"], r["status"], r["reason"], r["message"]) for r in records if r["status"] != "ok"]
    assert not bad
    assert summary["trials"]["ok"] == summary["trials"]["planned"] > 0
    assert summary["trials"]["unsupported"] == 0, "the box must be able to run every system"


def test_every_record_keeps_to_the_schema(records: list[dict[str, Any]]) -> None:
    schema = json.loads((PROJECT / "reports/schema/record.schema.json").read_text())
    for record in records:
        jsonschema.validate(record, schema)


def test_copies_are_what_the_storage_paths_say(summary: dict[str, Any]) -> None:
    found = {(c["label"], c["host_cache"]): c["copies"] for c in summary["copies"] if c["part"] == "all"}
    labels = {entry if isinstance(entry, str) else entry["label"] for entry in EXPERIMENT["systems"]}
    assert {label for label, _ in found} == labels
    wrong = {key: value for key, value in found.items() if key[0] in COPIES and abs(value - COPIES[key[0]]) > TOLERANCE}
    assert not wrong


def test_a_dax_window_holds_no_second_copy(summary: dict[str, Any]) -> None:
    found = [c["copies"] for c in summary["copies"] if c["label"] == "myfs" and c["part"] == "large"]
    assert found
    assert all(abs(copies - 1.0) <= TOLERANCE for copies in found)


def test_block_requests_are_counted_where_there_is_a_block_device(records: list[dict[str, Any]]) -> None:
    in_guests = [r for r in records if r["workload"] == "cat" and r["guests"] > 0]
    requests = {r["label"]: r["io_path"]["guest"]["read_requests"] for r in in_guests}
    assert requests["gfs"] > 10 * requests["virtiofs_auto"]


def test_frames_by_number_and_content_agree_with_what_the_kernels_say(records: list[dict[str, Any]]) -> None:
    """Two counts that know nothing of each other: resident pages by cachestat in host and guest, and frames by PFN, once in every boot."""
    counted = {
        r["label"]: r["copies"]["all"] for r in records if "physical_pages" in r.get("copies", {}).get("all", {})
    }
    assert set(counted) == {r["label"] for r in records}
    apart = {
        label: (c["physical_pages"] - c["host_pages"] - c["guest_pages"] - c["daemon_pages"]) / c["accessed_pages"]
        for label, c in counted.items()
    }
    assert not {label: share for label, share in apart.items() if abs(share) > TOLERANCE}


def test_memory_is_accounted_for_around_every_trial(records: list[dict[str, Any]]) -> None:
    """T = used + cache + free over all parties, and of its change at most max(8 MiB, 5 % of the data set) is unexplained."""
    dataset_bytes = (EXPERIMENT["dataset"]["large_mib"] + EXPERIMENT["dataset"]["small_mib"]) << 20
    for record in records:
        for moment in ("before", "after"):
            table = record["ledger"][moment]
            parties = [table["host"], *table["guests"], *table["qemu"], *table["daemons"]]
            total = sum(sum(party.values()) for party in parties) - table["merged_bytes"]
            assert total == table["total_bytes"], record["id"]
    left = {r["id"]: r["ledger"]["change"]["remainder_bytes"] for r in records}
    limit = max(8 << 20, 0.05 * dataset_bytes)
    assert not {trial: left_bytes for trial, left_bytes in left.items() if abs(left_bytes) > limit}


def test_every_layer_is_counted(records: list[dict[str, Any]]) -> None:
    """One cold read of everything, by storage path: who saw the bytes pass, and who did not."""
    data = (EXPERIMENT["dataset"]["large_mib"] + EXPERIMENT["dataset"]["small_mib"]) << 20
    cold = {
        r["label"]: r["io_path"]
        for r in records
        if (r["kind"], r["workload"], r["host_cache"]) == ("timed", "cat", "cold")
    }
    assert all(layers["store"]["read_bytes"] >= data for layers in cold.values())
    for label in ("gfs", "gfs_again", "gfs_direct"):
        assert cold[label]["qemu_block"]["read_bytes"] >= data
    for label in ("virtiofs_never", "virtiofs_auto", "virtiofs_always", "myfs", "gfs_pmem_dax"):
        assert cold[label]["qemu_block"]["read_bytes"] < data / 4
    large_ranges = (EXPERIMENT["dataset"]["large_mib"] << 20) >> 21
    assert cold["myfs"]["fuse"]["map_requests"] >= large_ranges
    assert cold["myfs"]["fuse"]["read_bytes"] < data / 2
    assert cold["virtiofs_auto"]["daemon"]["read_call_bytes"] >= data
    assert all(layers["qemu"]["cpu_seconds_vcpu"] > 0 for label, layers in cold.items() if label != "hfs")


def test_guest_and_daemon_count_the_same_requests(records: list[dict[str, Any]]) -> None:
    """The guest's kernel counts them for every daemon; hostfsd counts them too, by itself."""
    counted = {r["label"]: [] for r in records if r["label"].startswith(("virtiofs", "myfs"))}
    for r in records:
        if r["kind"] == "residency" and r["label"] in counted:
            counted[r["label"]].append(r["io_path"])
    assert all(layers["guest"]["fuse_requests"] > 0 for each in counted.values() for layers in each)
    for layers in counted["myfs"]:
        for kind in ("lookup_requests", "open_requests", "read_requests", "map_requests"):
            assert layers["guest"][f"fuse_{kind}"] == layers["fuse"][kind], kind
    assert all(counted.values())


def test_what_may_confound_is_recorded(smoke: Run, records: list[dict[str, Any]]) -> None:
    assert all({"thp_enabled", "swappiness", "read_ahead_kb"} <= set(r["settings"]) for r in records)
    assert all(r["io_path"]["host"]["steal_seconds"] >= 0 for r in records)
    manifest = json.loads((smoke["directory"] / "manifest.json").read_text())
    (host,) = manifest["hosts"].values()
    assert {"cpu", "kernel", "memory", "settings", "cgroups", "store", "load", "packages"} <= set(host["lab"])
    assert host["storage"]["shares"]["smoke"]["allocated_bytes"] > 0
    guests = [boot["facts"] for boot in host["boots"] if boot["system"] != "hfs"]
    assert guests
    for facts in guests:
        assert facts["swaps"] == 0
        assert any(m["target"] == "/data" and "noatime" in m["options"].split(",") for m in facts["mounts"])


def test_the_report_opens_offline(smoke: Run) -> None:
    page = (smoke["directory"] / "report.html").read_text()
    assert "TCG" in page or json.loads((smoke["directory"] / "manifest.json").read_text())["accelerator"] == "kvm"
    assert not re.search(r"""(src|href)=["']https?:""", page)


def test_it_is_handed_on_and_rebuilt_from_its_records(smoke: Run, tmp_path: Path) -> None:
    """Of a working copy with changes too: CI has none, who develops has."""
    made = onecopy(
        *("handoff", str(smoke["directory"])),
        *("-e", f"handoff_destination={tmp_path}", "-e", "handoff_dirty_allowed=true"),
    )
    assert made.returncode == 0, made.stdout + made.stderr
    (packed,) = tmp_path.glob("*.tar")
    verified = onecopy("verify", str(packed))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    for name in ("summary.json", "report.html", "report.md"):
        assert f"{name}: true" in verified.stdout


def test_nothing_is_left_running(smoke: Run) -> None:
    state = str(PROJECT / ".onecopy")
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        assert not words[0].endswith("systemd-nspawn") or not any(state in word and "box1" in word for word in words)
    assert state not in Path("/proc/self/mounts").read_text()
    assert state not in subprocess.run(["losetup", "--list"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run",), "run what?"),
        (("run", "smok"), "no experiment 'smok'"),
        (("run", "smoke", "-i", "inventories/nowhere"), "no inventory 'inventories/nowhere'"),
        (("dmeo",), "no verb 'dmeo'"),
        (("handoff",), "handoff what?"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], said: str) -> None:
    done = onecopy(*arguments)
    assert done.returncode != 0
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
