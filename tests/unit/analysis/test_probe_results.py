"""What the report says of probes' metrics."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from ansible.module_utils.onecopy.analysis.probe_figures import probe_figures
from ansible.module_utils.onecopy.analysis.probe_results import probe_sections
from ansible.module_utils.onecopy.analysis.stored_run import Run

PLAN = {"probes": {"idle_guest": {"probe": "idle_guest", "parameters": {}}}}


def row(label: str, metric: str, value: float, **more: Any) -> dict[str, Any]:
    return {"label": label, "guests": 1, "host": "kvm1", "probe": "idle_guest", "metric": metric, "value": value} | more


def sections(accelerator: str, *rows: dict[str, Any]) -> list[Any]:
    run = cast(Run, SimpleNamespace(accelerator=accelerator, hosts=["kvm1"], plan=PLAN, ok=lambda kind: []))
    return list(probe_sections(run, {"probes": rows}))


def test_systems_stand_down_and_metrics_across_with_their_units() -> None:
    (section,) = sections(
        "kvm",
        row("gfs", "guest_backed_bytes", 3 << 20, n=2, low=2 << 20, high=4 << 20),
        row("gfs", "merged_share_ratio", 0.25, n=2),
        row("myfs", "guest_backed_bytes", 1 << 30, n=1),
    )
    medians, intervals = section.blocks
    assert [(column.title, column.unit) for column in medians.columns] == [
        ("system", ""),
        ("guest backed", "MiB"),
        ("merged share", ""),
    ]
    assert [[cell.text for cell in cells] for cells in medians.rows] == [
        ["gfs", "3.00", "0.250"],
        ["myfs", "1,024.00", ""],
    ]
    assert [cell.text for cell in intervals.rows[0]] == ["gfs", "guest backed (MiB)", "3.00", "[2.00, 4.00]", "2"]
    assert intervals.folded


def test_one_boot_has_no_table_of_intervals_and_a_wide_table_is_closed() -> None:
    (section,) = sections("kvm", *(row("gfs", f"number_{metric}_count", metric, n=1) for metric in range(13)))
    (medians,) = section.blocks
    assert medians.folded


def test_emulated_seconds_come_with_their_warning() -> None:
    (section,) = sections("tcg", row("gfs", "hello_seconds", 1.5, n=1))
    assert section.blocks[0].tone == "warning"
    (section,) = sections("tcg", row("gfs", "maps_count", 15, n=1))
    assert section.blocks[0].kind == "table"


def record(label: str, workload: str, boot: int, points: list[list[float]]) -> dict[str, Any]:
    found = {"metrics": {}, "series": {"saved_bytes": points}}
    return {
        "system": "gfs_direct", "label": label, "guests": 1, "host": "kvm1", "workload": workload, "probe": found, "repeat": boot,
    }  # fmt: skip


def test_every_parameter_set_has_its_curve_on_common_axes() -> None:
    sweep = {name: {"probe": "ksm_cost", "parameters": {}} for name in ("scan_100", "scan_900")}
    records = [
        record("gfs_direct", "scan_100", 0, [[0, 0], [10, 8 << 20]]),
        record("gfs_direct", "scan_100", 1, [[0, 0], [20, 8 << 20]]),
        record("gfs_direct", "scan_900", 0, [[0, 0], [2, 16 << 20]]),
    ]
    run = SimpleNamespace(hosts=["kvm1"], plan={"probes": PLAN["probes"] | sweep}, ok=lambda kind: records)
    (drawn,) = probe_figures(cast(Run, run), "ksm_cost")
    assert [figure.title for figure in drawn.figures] == ["gfs_direct, scan 100", "gfs_direct, scan 900"]
    first, second = (figure.svg for figure in drawn.figures)
    assert first.count("var(--gfs-direct") > second.count("var(--gfs-direct") > 0
    for svg in (first, second):
        assert ">20<" in svg, "both end where the longest curve ends"
        assert ">MiB<" in svg
    assert not list(probe_figures(cast(Run, run), "idle_guest"))


def test_rows_of_a_sweep_are_told_apart() -> None:
    plan = {"probes": {name: {"probe": "ksm_cost", "parameters": {}} for name in ("scan_100", "scan_900")}}
    run = cast(Run, SimpleNamespace(accelerator="kvm", hosts=["kvm1"], plan=plan, ok=lambda kind: []))
    rows = [row("gfs_direct", "saved_bytes", 1 << 20, n=1) | {"probe": name} for name in plan["probes"]]
    (section,) = probe_sections(run, {"probes": rows})
    assert [cells[0].text for cells in section.blocks[0].rows] == ["gfs_direct, scan 100", "gfs_direct, scan 900"]


def test_a_table_says_whether_memory_follows_the_overlap() -> None:
    plan = {"probes": {f"overlap_{n}": {"probe": "overlap", "parameters": {"overlap": n / 100}} for n in (100, 0, 50)}}
    run = cast(Run, SimpleNamespace(accelerator="kvm", hosts=["kvm1"], plan=plan, ok=lambda kind: []))
    ideal = {0: 1.0, 50: 0.75, 100: 0.5}
    held = {
        "gfs_private": dict.fromkeys(ideal, 1.0),
        "gfs": {percent: 1 + value for percent, value in ideal.items()},
        "gfs_ksm": {0: 1.0, 100: 0.75},  # of the middle there is no record
        "myfs": {50: 0.75},
    }
    rows = [
        row(label, metric, value, n=1) | {"probe": f"overlap_{percent}", "guests": 2}
        for label, values in held.items()
        for percent in values
        for metric, value in (("frames_per_read_ratio", values[percent]), ("ideal_ratio", ideal[percent]))
    ]
    (section,) = probe_sections(run, {"probes": rows})
    table = section.blocks[1]
    assert [column.title for column in table.columns] == [
        "system",
        "overlap 0%",
        "overlap 50%",
        "overlap 100%",
        "follows",
    ]
    assert [[cell.text for cell in cells] for cells in table.rows] == [
        ["gfs_private with 2 guests", "1.00 (1.00)", "1.00 (0.75)", "1.00 (0.50)", "0.00"],
        ["gfs with 2 guests", "2.00 (1.00)", "1.75 (0.75)", "1.50 (0.50)", "1.00"],
        ["gfs_ksm with 2 guests", "1.00 (1.00)", "", "0.75 (0.50)", "0.50"],
        ["myfs with 2 guests", "", "0.75 (0.75)", "", ""],
    ]
    one = {"probes": {"overlap_0": plan["probes"]["overlap_0"]}}
    run = cast(Run, SimpleNamespace(accelerator="kvm", hosts=["kvm1"], plan=one, ok=lambda kind: []))
    (section,) = probe_sections(run, {"probes": [entry for entry in rows if entry["probe"] == "overlap_0"]})
    assert [block.caption for block in section.blocks] == ["Medians over boots"]


def test_guests_that_boot_from_the_path_have_tables_of_their_own() -> None:
    stages = ("booted", "executed", "more")
    values = {
        f"{stage}_{what}_bytes": 3 << 20
        for stage in stages
        for what in ("held", "host_cache", "guests_cache", "crossed")
    }
    values |= {f"{stage}_copies_ratio": 1.5 for stage in stages}
    myfs = values | {"booted_requests_count": 1234, "booted_map_requests_count": 6, "busy_on_host_count": 2}
    plan = {"probes": {"rootfs": {"probe": "rootfs", "parameters": {}}}}
    run = cast(Run, SimpleNamespace(accelerator="tcg", hosts=["kvm1"], plan=plan, ok=lambda kind: []))
    rows = [
        row(label, metric, value, n=1) | {"probe": "rootfs"}
        for label, metrics in (("virtiofs_auto", values), ("myfs", myfs))
        for metric, value in metrics.items()
    ]
    (section,) = probe_sections(run, {"probes": rows})
    _, held, asked = section.blocks
    assert [cell.text for cell in held.rows[0]] == ["virtiofs_auto", "booted", "3.0", "3.0", "3.0", "1.50"]
    assert [[cell.text for cell in cells] for cells in asked.rows] == [
        ["virtiofs_auto", "booted", "3.0", "", "", ""],
        ["virtiofs_auto", "programs executed", "3.0", "", "", ""],
        ["virtiofs_auto", "the same again", "3.0", "", "", ""],
        ["myfs", "booted", "3.0", "1,234", "6", ""],
        ["myfs", "programs executed", "3.0", "", "", ""],
        ["myfs", "the same again", "3.0", "", "", "2"],
    ]
