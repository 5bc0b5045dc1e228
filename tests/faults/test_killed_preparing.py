"""kill -9 of the controller while it makes a data set and its images; what it had started on the KVM host may go on for a while."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterable
from pathlib import Path

import machine
import pytest
from ansible.module_utils.onecopy import image
from ansible.module_utils.onecopy.paths import HostPaths
from lab import EXPERIMENT, RUN_SECONDS, Lab, Run, wait_until
from points import POINTS, Told, draw

PREPARE = ("ansible-playbook", "playbooks/prepare.yml")
DATASET = EXPERIMENT["dataset"] | {"name": "broken_off", "large_mib": 32, "small_mib": 8, "small_files": 2000}
SYSTEMS = ["gfs", "gfs_direct", "virtiofs_auto"]
# Two trees of 40 MiB, then two images of both: it is killed when so much of that lies on the disk, however fast the machine is.
MADE_MIB = 150.0
MOST = 3


@pytest.mark.long
@pytest.mark.fault("kill -9 of the controller while it makes a data set and its images")
@pytest.mark.parametrize("point", range(max(1, min(POINTS, MOST))))
def test_killed_while_preparing(lab: Lab, tmp_path: Path, point: int, told: Told) -> None:
    before = lab.snapshot()
    chance = draw("prepare", point)
    run = Run(lab, tmp_path, dataset=DATASET, systems=SYSTEMS, host_cache=["cold"], timed=[])
    paths = HostPaths(lab.state)
    places = (paths.share(DATASET["name"]), paths.image(DATASET["name"], "gfs").parent)
    try:
        controller = run.start(*PREPARE)
        mib = chance.uniform(0, MADE_MIB)
        wait_until(
            lambda: controller.poll() is not None or made_mib(places) > mib, RUN_SECONDS, f"{mib:.0f} MiB are made"
        )
        assert controller.poll() is None, "it was over before"
        pids = [controller.pid, *(process.pid for process in machine.below(controller.pid))]
        machine.kill(pids if chance.random() < 0.5 else pids[:1], signal.SIGKILL)
        controller.wait()

        assert run.end(run.start(*PREPARE)) == 0, run.said()
        made = json.loads(paths.image_manifest(DATASET["name"]).read_text())
        assert set(made) == {"gfs", "gfs_direct"}
        for system, entry in made.items():
            assert image.digest(paths.image(DATASET["name"], system)) == entry["sha256"]
        assert list(paths.store.rglob("*.partial")) == []
        assert run.end(run.start()) == 0, run.said()
        run.expect_complete([])
        lab.expect_quiet(before)
    finally:
        for place in places:
            lab.inside("rm", "-rf", f"/var/lib/onecopy/{place.relative_to(lab.state)}")
        for manifest in (paths.state / "manifests").glob(f"{DATASET['name']}.*"):
            manifest.unlink()
    told("the same command made them, and a run on them was complete")


def made_mib(places: Iterable[Path]) -> float:
    """What lies below these directories, which grows while one looks."""
    made = 0
    for place in places:
        for directory, _, names in os.walk(place):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    made += os.stat(Path(directory, name)).st_blocks * 512
    return made / 2**20
