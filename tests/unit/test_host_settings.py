"""Host settings: on a tree made like /sys and /proc, and one harmless setting of the real kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy import host_settings, knobs

Run = Callable[..., dict[str, Any]]
UTILS = Path(knobs.__file__).resolve().parents[1]
KSM = "sys/kernel/mm/ksm"
FILES = {
    f"{KSM}/run": "0",
    f"{KSM}/pages_to_scan": "100",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
    "proc/sys/vm/swappiness": "60",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "powersave",
    "sys/devices/system/cpu/cpufreq/policy1/scaling_governor": "powersave",
    "sys/devices/system/cpu/intel_pstate/no_turbo": "0",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(f"{text}\n")
    return tmp_path / "root"


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "knobs"


def _values(root: Path) -> dict[str, str]:
    return {name: (root / name).read_text().strip() for name in FILES}


def test_settings_are_set_verified_and_restored(root: Path, memory: Path) -> None:
    wanted = {
        "ksm_run": 1,
        "ksm_pages_to_scan": 5000,
        "swappiness": 60,
        "governor": "performance",
        "turbo": False,
        "mglru": "0x0000",
    }
    outcome = host_settings.apply(wanted, memory, root=root)
    assert outcome.changed == ["ksm_pages_to_scan", "ksm_run", "governor", "turbo"]
    assert outcome.absent == ["mglru"]
    assert outcome.before["governor"] == {
        str(root / f"sys/devices/system/cpu/cpufreq/policy{number}/scaling_governor"): "powersave" for number in (0, 1)
    }
    assert _values(root)["sys/devices/system/cpu/intel_pstate/no_turbo"] == "1"
    assert host_settings.current(root=root) == {
        "ksm_pages_to_scan": "5000",
        "ksm_run": "1",
        "thp_enabled": "madvise",
        "swappiness": "60",
        "governor": "performance",
        "turbo": "off",
    }
    assert knobs.drifted(memory) == []
    assert host_settings.apply(wanted, memory, root=root).changed == []
    assert len(knobs.restore(memory)) == 5
    assert _values(root) == FILES
    assert knobs.restore(memory) == []


def test_check_mode_writes_nothing(root: Path, memory: Path) -> None:
    assert host_settings.apply({"swappiness": 1}, memory, root=root, dry=True).changed == ["swappiness"]
    assert _values(root) == FILES
    assert not memory.exists()


def test_a_setting_that_somebody_changed_since_is_found(root: Path, memory: Path) -> None:
    host_settings.apply({"swappiness": 1, "ksm_run": 0}, memory, root=root)
    (root / "proc/sys/vm/swappiness").write_text("33\n")
    assert knobs.drifted(memory) == [f"{root}/proc/sys/vm/swappiness: was set to '1' and is '33' now"]
    host_settings.apply({"swappiness": 2}, memory, root=root)
    knobs.restore(memory)
    assert _values(root)["proc/sys/vm/swappiness"] == "60"


def test_ksm_is_unmerged_first_and_then_stopped(root: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host_settings.apply({"ksm_run": 1, "ksm_pages_to_scan": 9, "swappiness": 1}, memory, root=root)
    written: list[tuple[str, str]] = []
    honest = knobs._write

    def write(knob: Path, value: str) -> None:
        written.append((knob.name, value))
        honest(knob, value)

    monkeypatch.setattr(knobs, "_write", write)
    knobs.restore(memory)
    assert (written[0], written[-1]) == (("run", "2"), ("run", "0"))
    assert sorted(written[1:-1]) == [("pages_to_scan", "100"), ("swappiness", "60")]


@pytest.mark.parametrize("moment", ["before the write", "after the write"])
def test_a_kill_at_any_moment_leaves_what_restores(root: Path, memory: Path, moment: str) -> None:
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from onecopy import host_settings, knobs\n"
        "honest = knobs._write\n"
        "def write(knob, value):\n"
        "    if knob.name == 'swappiness':\n"
        "        if sys.argv[4] == 'after the write': honest(knob, value)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    honest(knob, value)\n"
        "knobs._write = write\n"
        "host_settings.apply({'ksm_run': 1, 'swappiness': 1, 'governor': 'performance'}, Path(sys.argv[3]), root=Path(sys.argv[2]))\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(UTILS), str(root), str(memory), moment], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert _values(root) != FILES
    command = [sys.executable, "-m", "onecopy.knobs", str(memory)]
    assert subprocess.run(command, cwd=UTILS, check=False, capture_output=True).returncode == 0
    assert _values(root) == FILES
    assert list(memory.iterdir()) == []


def test_a_memory_that_cannot_be_read_hides_no_other(root: Path, memory: Path) -> None:
    host_settings.apply({"swappiness": 1}, memory, root=root)
    (memory / "0.json").write_text('{"knob":')
    with pytest.raises(knobs.KnobError, match=r"0\.json: cannot be read"):
        knobs.restore(memory)
    assert _values(root)["proc/sys/vm/swappiness"] == "60"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"swapiness": 1}, "swapiness: no such setting: known are ksm_max_page_sharing"),
        ({"swappiness": [1]}, "is no value"),
        ({"swappiness": ""}, "is no value"),
        ({"turbo": "fast"}, "'fast' is neither on nor off"),
        ({"read_ahead_kb": 128}, "of which device"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_set(
    root: Path, memory: Path, wanted: dict[str, Any], message: str
) -> None:
    with pytest.raises(knobs.KnobError, match=message):
        host_settings.apply({"thp_enabled": "never", **wanted}, memory, root=root)
    assert _values(root) == FILES


def test_readahead_is_that_of_the_stores_device(root: Path, memory: Path, tmp_path: Path) -> None:
    number = os.stat(tmp_path).st_dev
    device = root / f"sys/class/bdi/{os.major(number)}:{os.minor(number)}"
    device.mkdir(parents=True)
    (device / "read_ahead_kb").write_text("8192\n")
    assert host_settings.apply({"read_ahead_kb": 128}, memory, tmp_path, root).changed == ["read_ahead_kb"]
    assert host_settings.current(tmp_path, root)["read_ahead_kb"] == "128"


@pytest.mark.skipif(
    not os.access("/proc/sys/vm/swappiness", os.W_OK), reason="needs root to change a setting of the kernel"
)
def test_the_module_changes_a_real_setting_and_brings_it_back(run_module: Run, memory: Path) -> None:
    before = int(Path("/proc/sys/vm/swappiness").read_text())
    other = before + 1 if before < 100 else before - 1
    arguments: dict[str, Any] = {"settings": {"swappiness": other}, "directory": str(memory)}
    try:
        assert run_module("host_knobs", check_mode=True, **arguments)["changed"] is True
        result = run_module("host_knobs", **arguments)
        assert (result["changed"], result["settings"]["swappiness"]) == (True, str(other))
        assert run_module("host_knobs", **arguments)["changed"] is False
        assert run_module("host_knobs", state="verified", directory=str(memory))["changed"] is False
        assert run_module("host_knobs", state="restored", directory=str(memory), check_mode=True)["changed"] is True
    finally:
        result = run_module("host_knobs", state="restored", directory=str(memory))
    assert (result["changed"], result["settings"]["swappiness"]) == (True, str(before))
    assert run_module("host_knobs", state="restored", directory=str(memory))["changed"] is False


def test_the_module_fails_when_a_setting_drifted(run_module: Run, root: Path, memory: Path) -> None:
    host_settings.apply({"swappiness": 1}, memory, root=root)
    (root / "proc/sys/vm/swappiness").write_text("33\n")
    result = run_module("host_knobs", state="verified", directory=str(memory))
    assert result["failed"] is True
    assert "was set to '1' and is '33' now" in result["msg"]
