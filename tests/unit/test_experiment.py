"""An experiment with a mistake anywhere gives one line that says what, where and the cure."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.onecopy import experiment

PROJECT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((PROJECT / "reports/schema/experiment.schema.json").read_text())
PAPER = yaml.safe_load((PROJECT / "experiments/paper.yml").read_text())
OWN = sorted(file for file in (PROJECT / "experiments").glob("*.yml") if file.name not in experiment.NOT_EXPERIMENTS)
NAME = "experiments/x.yml"


def change(place: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Set ``place`` (steps joined by dots, numbers for lists) to ``value``."""

    def apply(document: dict[str, Any]) -> None:
        *path, last = [int(step) if step.isdigit() else step for step in place.split(".")]
        inner: Any = document
        for step in path:
            inner = inner[step]
        inner[last] = value

    return apply


def drop(place: str) -> Callable[[dict[str, Any]], None]:
    def apply(document: dict[str, Any]) -> None:
        *path, last = place.split(".")
        inner: Any = document
        for step in path:
            inner = inner[step]
        del inner[last]

    return apply


def adapt(rule: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """A rule instead of a number of boots."""

    def apply(document: dict[str, Any]) -> None:
        del document["repeats"], document["tcg"]["repeats"]
        document["adaptive"] = rule

    return apply


BAD: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (change("repeets", 3), "unknown key 'repeets': did you mean 'repeats'? known: "),
    (drop("seed"), "key 'seed' is missing"),
    (drop("systems"), "key 'systems' is missing"),
    (change("name", "Paper 1"), "name: 'Paper 1' is no name"),
    (change("description", ""), "description: must not be empty"),
    (change("seed", "soon"), "seed: must be a whole number, not 'soon'"),
    (change("seed", -1), "seed: -1 is too small: at least 0"),
    (change("repeats", 0), "repeats: 0 is too small: at least 1"),
    (drop("repeats"), "give one of repeats (a fixed number of boots) and adaptive"),
    (change("adaptive", {"cap": 10}), "give one of repeats (a fixed number of boots) and adaptive"),
    (change("tcg.adaptive", {"cap": 5}), "tcg.adaptive.cap: 5 is too small: at least 6"),
    (change("tcg.adaptive", {"cap": 10}), "with tcg: give one of repeats"),
    (adapt({"half_width": 0.05}), "adaptive: key 'cap' is missing"),
    (adapt({"cap": 10, "minimum": 10}), "adaptive.cap: 10 leaves nothing to decide after 10 boots"),
    (adapt({"cap": 10, "minimum": 2}), "adaptive.minimum: 2 is too small: at least 5"),
    (adapt({"cap": 10, "half_width": 0}), "adaptive.half_width: 0 is too small: more than 0"),
    (change("repeats", True), "repeats: must be a whole number, not True"),
    (change("repeats", 100000), "repeats: 100000 is too large: at most 1000"),
    (change("guest", 512), "guest: must be a dictionary, not 512"),
    (change("guest.memory", 512), "guest: unknown key 'memory': did you mean 'memory_mib'?"),
    (drop("guest.cpus"), "guest: key 'cpus' is missing"),
    (change("guest.memory_mib", 64), "guest.memory_mib: 64 is too small: at least 192"),
    (change("guest.cpus", 0), "guest.cpus: 0 is too small"),
    (change("dataset.large_mb", 3), "dataset: unknown key 'large_mb': did you mean 'large_mib'?"),
    (change("dataset.small_files", 0), "dataset.small_files: 0 is too small"),
    (change("dataset.name", "../x"), "dataset.name: '../x' is no name"),
    (drop("dataset.large_files"), "dataset: key 'large_files' is missing"),
    (change("dataset.small_files", 99_999_999), "dataset: 99999999 small files do not fit 24 MiB"),
    (
        change("dataset.large_mib", 4096),
        "guest.memory_mib: 512 MiB cannot hold both trees of the data set beside the guest itself: at least 8368 MiB",
    ),
    (change("dataset.twin", 1), "dataset.twin: must be true or false, not 1"),
    (
        lambda document: (change("dataset.twin", False)(document), change("timed", ["cat", "diff"])(document)),
        "timed[1]: 'diff' reads the second tree, and this data set has no twin: take it away, or twin: false from dataset",
    ),
    (
        lambda document: (
            change("dataset.twin", False)(document),
            change("timed", ["own"])(document),
            change("workloads", {"own": {"pipeline": [["cat", "$twin/large/x"]], "reads": {"part": "some"}}})(document),
        ),
        "timed[0]: 'own' reads the second tree",
    ),
    (
        lambda document: (
            change("dataset.twin", False)(document),
            change("timed", ["cat"])(document),
            change("probes", ["ksm_cost"])(document),
        ),
        "probes[0]: ksm_cost reads the second tree with 1 guest, and this data set has no twin: take 2 guests or more",
    ),
    (
        change("dataset.guest_root", True),
        "'diff' reads the second tree, and this data set has no twin: take it away",
    ),
    (
        lambda document: (change("dataset.guest_root", True)(document), change("dataset.twin", True)(document)),
        "dataset.twin: only a data set that is made has one: take twin away",
    ),
    (
        lambda document: (
            change("dataset.twin", False)(document),
            change("timed", ["cat"])(document),
            change("tcg.dataset", {"twin": True})(document),
        ),
        "tcg.dataset: other data under the same name 'paper'",
    ),
    (change("systems", []), "systems: must not be empty"),
    (change("systems.1", "gsf"), "systems[1]: unknown system 'gsf': did you mean 'gfs'? known: gfs, "),
    (change("systems.2.system", "gfs_driect"), "systems[2]: unknown system 'gfs_driect': did you mean 'gfs_direct'?"),
    (change("systems.2.lable", "x"), "systems[2]: unknown key 'lable': did you mean 'label'?"),
    (change("systems.2", {"system": "gfs"}), "systems[2]: label 'gfs' is taken by systems[1]"),
    (change("systems.2.label", "myfs"), "systems[2]: label 'myfs' is the name of another system"),
    (change("systems.2", {"label": "x"}), "systems[2]: key 'system' is missing"),
    (change("systems.2", 7), "systems[2]: must be text or a dictionary, not 7"),
    (change("systems.2.options", {"aoi": "native"}), "systems[2].options: unknown key 'aoi': did you mean 'aio'?"),
    (
        change("systems.2.options", {"aio": "nativ"}),
        "systems[2].options.aio: unknown value 'nativ': did you mean 'native'?",
    ),
    (
        change("systems.2.options", {"root": "data"}),
        "systems[2].options.root: guests boot from a data set that is their root tree",
    ),
    (change("systems.2.options", {"window_mib": 64}), "systems[2].options.window_mib: gfs has no DAX window"),
    (
        change("systems.8", {"system": "myfs", "options": {"window_mib": 2560}}),
        "systems[8].options.window_mib: 2560 is no power of two, which a PCI device's window has to be: 4096 is the next",
    ),
    (
        change("systems.2", {"system": "virtiofs_auto", "label": "merged", "options": {"memory": "private_merge"}}),
        "systems[2].options.memory: 'private_merge': a share's daemon (vhost-user) maps its guest's memory, which KSM cannot merge then",
    ),
    (change("settings", {"read_ahead": 0}), "settings: unknown key 'read_ahead': did you mean 'read_ahead_kb'?"),
    (change("host_cache", ["hot"]), "host_cache[0]: unknown value 'hot'"),
    (change("host_cache", "cold"), "host_cache: must be a list, not 'cold'"),
    (change("guest_cache", ["cold", "cold"]), "guest_cache: 'cold' is named twice"),
    (change("guest_cache", []), "guest_cache: must not be empty"),
    (change("timed.0", "catt"), "timed[0]: unknown workload 'catt': did you mean 'cat'? known: "),
    (change("residency.0", "grpe"), "residency[0]: unknown workload 'grpe': did you mean 'grep'?"),
    (change("residency.0", "find"), "residency[0]: 'find' does not read every page of its part"),
    (change("residency.0", "random_read"), "residency[0]: 'random_read' does not read every page of its part"),
    (change("timed", ["cat", "cat"]), "timed: 'cat' is named twice"),
    (lambda document: document.update(timed=[], residency=[]), "residency, timed and probes name nothing to do"),
    (
        change("guest_warm_only", ["write_fsync"]),
        "guest_warm_only[0]: 'write_fsync' is neither in residency nor in timed",
    ),
    (
        lambda document: document.update(guest_cache=["cold"], guest_warm_only=["cat"]),
        "guest_warm_only: guest_cache has no warm state",
    ),
    (change("timeout_seconds", 0), "timeout_seconds: 0 is too small"),
    (change("timeout_seconds", 1.5), "timeout_seconds: must be a whole number, not 1.5"),
    (change("workloads", {"own": {"pipeline": []}}), "workloads.own: key 'reads' is missing"),
    (
        change("workloads", {"own": {"pipeline": [], "reads": {"part": "all"}}}),
        "workloads.own.pipeline: must not be empty",
    ),
    (
        change("workloads", {"own": {"pipeline": [["cat", "$dat"]], "reads": {"part": "all"}}}),
        "workloads.own.pipeline[0]: '$dat' has an unknown variable",
    ),
    (
        change("workloads", {"own": {"pipeline": [["cat", "$"]], "reads": {"part": "all"}}}),
        "workloads.own.pipeline[0]: '$' has an unknown variable",
    ),
    (
        change("workloads", {"own": {"pipeline": [["cat"]], "reads": {"part": "al"}}}),
        "workloads.own.reads.part: unknown value 'al': did you mean 'all'?",
    ),
    (
        change("workloads", {"own": {"pipeline": [["cat"]], "reads": {"part": "all", "most": 0.5}}}),
        "workloads.own.reads: most 0.5 is below least 1",
    ),
    (
        change("workloads", {"own": {"pipeline": [["cat"]], "reads": {"part": "none", "least": 0.5}}}),
        "workloads.own.reads: part none reads nothing",
    ),
    (
        change("workloads", {"own": {"pipeline": [["cat"]], "reads": {"part": "all"}, "exit_codes": [0, 1]}}),
        "workloads.own.exit_codes: 2 given for 1 programs",
    ),
    (change("tcg.repeat", 1), "tcg: unknown key 'repeat': did you mean 'repeats'?"),
    (change("tcg.name", "x"), "tcg: unknown key 'name'"),
    (drop("tcg.dataset.name"), "tcg.dataset: other data under the same name 'paper'"),
    (change("tcg.systems", ["gsf"]), "with tcg: systems[0]: unknown system 'gsf'"),
    (change("tcg.dataset.large_mib", 400), "with tcg: guest.memory_mib: 512 MiB cannot hold both trees"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD, ids=[message for _, message in BAD])
def test_mistake_gives_one_line(spoil: Callable[[dict[str, Any]], None], message: str) -> None:
    document = copy.deepcopy(PAPER)
    spoil(document)
    with pytest.raises(experiment.ExperimentError) as caught:
        experiment.validate(document, SCHEMA, NAME)
    text = str(caught.value)
    assert text.startswith(f"{NAME}: ")
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "must be one dictionary"),
        ("", "must be one dictionary"),
        ("name: [\n", "line 2: "),
        ("name: a\nname: b\n", "line 2: key 'name' is given twice"),
        ("guest: {cpus: 1, cpus: 2}\n", "line 1: key 'cpus' is given twice"),
        ("a: \tb: c\n", "line 1: "),
        ("\x01", "is not YAML"),
    ],
)
def test_file_that_is_no_dictionary(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "x.yml"
    file.write_text(text)
    with pytest.raises(experiment.ExperimentError, match=r"\A[^\n]*\Z") as caught:
        experiment.load(file, SCHEMA, NAME)
    assert message in str(caught.value)


def test_missing_file_names_its_neighbours() -> None:
    with pytest.raises(
        experiment.ExperimentError, match=r"no such experiment: did you mean 'smoke'\? known: .*paper, "
    ):
        experiment.load(PROJECT / "experiments/smok.yml", SCHEMA, "experiments/smok.yml")


def test_binary_file(tmp_path: Path) -> None:
    (tmp_path / "x.yml").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(experiment.ExperimentError, match="cannot be read"):
        experiment.load(tmp_path / "x.yml", SCHEMA, NAME)


@pytest.mark.parametrize("file", OWN, ids=lambda file: file.stem)
def test_our_own_are_right(file: Path) -> None:
    document = experiment.load(file, SCHEMA)
    assert document["name"] == file.stem


@pytest.mark.parametrize("file", OWN, ids=lambda file: file.stem)
def test_our_own_have_an_aa_pair_or_say_why_not(file: Path) -> None:
    document = experiment.load(file, SCHEMA)
    systems = [
        {"options": {}, **one} if isinstance(one, dict) else {"system": one, "options": {}}
        for one in document["systems"]
    ]
    kinds = [(one["system"], sorted(one["options"].items())) for one in systems]
    assert any(kinds.count(kind) > 1 for kind in kinds) or "no A/A pair" in file.read_text()


def test_our_own_data_sets_of_one_name_are_one_data_set() -> None:
    """Else two experiments in turn would make each other's anew on every host."""
    known: dict[str, tuple[str, dict[str, Any]]] = {}
    for file in OWN:
        for accelerator in ("kvm", "tcg"):
            dataset = {"twin": True} | experiment.for_accelerator(experiment.load(file, SCHEMA), accelerator)["dataset"]
            other, same = known.setdefault(dataset["name"], (file.stem, dataset))
            assert dataset == same, f"{file.stem} and {other}"


@pytest.mark.parametrize("name", ["density", "overlap", "diverge", "ksm_cost", "reclaim"])
@pytest.mark.parametrize("accelerator", ["kvm", "tcg"])
def test_what_ksm_or_storage_figures_are_about_has_one_tree(name: str, accelerator: str) -> None:
    document = experiment.load(PROJECT / f"experiments/{name}.yml", SCHEMA)
    assert experiment.for_accelerator(document, accelerator)["dataset"]["twin"] is False


def test_a_probe_of_several_guests_needs_no_twin() -> None:
    document = experiment.load(PROJECT / "experiments/ksm_cost.yml", SCHEMA)
    assert min(document["guests"]) == 2
    with pytest.raises(experiment.ExperimentError, match="with 1 guest, and this data set has no twin"):
        experiment.validate(document | {"guests": [1, 2]}, SCHEMA, "x")


def test_tcg_block_replaces_keys_inside_dictionaries_too() -> None:
    document = copy.deepcopy(PAPER) | {"tcg": {"guest": {"memory_mib": 400}, "repeats": 1}}
    effective = experiment.for_accelerator(document, "tcg")
    assert effective["guest"] == {"memory_mib": 400, "cpus": 1}
    assert effective["repeats"] == 1
    assert "tcg" not in effective
    assert experiment.for_accelerator(document, "kvm")["guest"]["memory_mib"] == 512


def test_a_rule_for_repeats_replaces_their_number_and_the_other_way_round() -> None:
    document = copy.deepcopy(PAPER) | {"adaptive": {"cap": 10}}
    del document["repeats"]
    assert "adaptive" not in experiment.for_accelerator(document, "tcg")
    assert experiment.adaptive(experiment.for_accelerator(document, "kvm")) == {
        "cap": 10,
        "half_width": 0.05,
        "minimum": 5,
    }
    document = copy.deepcopy(PAPER) | {"tcg": {"adaptive": {"cap": 10}}}
    assert "repeats" not in experiment.for_accelerator(document, "tcg")


def test_digest_ignores_the_order_of_keys_alone() -> None:
    turned = dict(reversed(list(PAPER.items())))
    assert experiment.digest(turned) == experiment.digest(PAPER)
    assert experiment.digest(PAPER | {"systems": PAPER["systems"][::-1]}) != experiment.digest(PAPER)


def test_the_runs_readahead_and_systems_own_exclude_each_other() -> None:
    document = copy.deepcopy(PAPER) | {"settings": {"read_ahead_kb": 0}, "read_ahead_kb": ["as_is", 1024]}
    with pytest.raises(
        experiment.ExperimentError, match=r"settings\.read_ahead_kb: systems have readaheads of their own"
    ):
        experiment.validate(document, SCHEMA, NAME)
