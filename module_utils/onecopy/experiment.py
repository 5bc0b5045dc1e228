"""One experiment file, checked whole before anything starts. Controller alone: needs PyYAML and jsonschema."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import jsonschema
import yaml

from .device_limit import AS_IS
from .probes import PROBES
from .systems import SYSTEMS
from .twin import why_wrong
from .workloads import WORKLOADS, Workload, parse

# What kernel, runner and the workload itself need beside the data: below it a guest cannot hold the set in its cache.
GUEST_RESERVE_MIB: Final = 128
# Files beside the experiments that say something about all of them.
NOT_EXPERIMENTS: Final = frozenset({"claims.yml"})
_REQUIRED_INSIDE: Final = {
    "guest": ("memory_mib", "cpus"),
    "dataset": ("name", "large_mib", "large_files", "small_mib", "small_files", "seed"),
}
_PROBE_KEYS: Final = ("probe", "label", "only")
_TYPES: Final = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "array": "a list",
    "object": "a dictionary",
    "boolean": "true or false",
}


class ExperimentError(Exception):
    """Something is wrong with an experiment; the text is one line: file, place, what, cure."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML keeps the last of two equal keys without a word; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def load(path: Path, schema: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
    """Read and validate the experiment at ``path``; ``name`` is how messages call the file. Raises ExperimentError."""
    name = name or str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = sorted(file.stem for file in path.parent.glob("*.yml") if file.name not in NOT_EXPERIMENTS)
        raise ExperimentError(f"{name}: there is no such experiment{_meant(path.stem, known)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{name}: cannot be read: {_one_line(error)}") from None
    try:
        document = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ExperimentError(
            f"{name}: line {line}: {_one_line(error.problem or error)}: mend the YAML there"
        ) from None
    except yaml.YAMLError as error:
        raise ExperimentError(f"{name}: is not YAML: {_one_line(error)}") from None
    return validate(document, schema, name)


def validate(document: object, schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    """``document`` itself when every key and value of it makes sense, with and without its ``tcg`` block. Raises ExperimentError."""
    if not isinstance(document, dict):
        raise ExperimentError(f"{name}: must be one dictionary with the keys {', '.join(schema['required'])}")
    errors = sorted(
        jsonschema.Draft202012Validator(schema).iter_errors(document),
        key=lambda error: [str(step) for step in error.path],
    )
    if errors:
        place = _place(errors[0].absolute_path)
        raise ExperimentError(f"{name}: {place + ': ' if place else ''}{_schema_message(errors[0])}")
    _check_meaning(document, name)
    if "tcg" in document:
        _check_renamed_dataset(document, name)
        _check_meaning(for_accelerator(document, "tcg"), f"{name}: with tcg")
    return document


def for_accelerator(experiment: Mapping[str, Any], accelerator: str) -> dict[str, Any]:
    """The experiment as it runs with ``accelerator``: the ``tcg`` block laid over it where that applies, dictionaries key by key."""
    effective = {key: value for key, value in experiment.items() if key != "tcg"}
    if accelerator == "tcg":
        replacing = experiment.get("tcg", {})
        for key, other in (("repeats", "adaptive"), ("adaptive", "repeats")):
            if key in replacing:
                effective.pop(other, None)
        for key, value in replacing.items():
            effective[key] = effective.get(key, {}) | value if isinstance(value, dict) else value
    return effective


def digest(experiment: Mapping[str, Any]) -> str:
    """sha256 of the experiment's meaning: comments and the order of keys do not count, the order of lists does."""
    return hashlib.sha256(json.dumps(experiment, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def adaptive(experiment: Mapping[str, Any]) -> dict[str, Any] | None:
    """``adaptive`` with its defaults filled in; None where the number of boots is fixed."""
    given = experiment.get("adaptive")
    return None if given is None else {"half_width": 0.05, "minimum": 5, **given}


def workloads(experiment: Mapping[str, Any]) -> dict[str, Workload]:
    """The table of workloads, with the experiment's own laid over it. Raises ValueError."""
    own = experiment.get("workloads", {})
    return WORKLOADS | {name: parse(name, definition) for name, definition in own.items()}


def labelled_systems(experiment: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``systems`` in its long form: ``system``, ``label`` (the system's name where none is given), ``options``; once for every value of
    ``device`` and ``read_ahead_kb``.

    What is not as on the host itself is appended to the label: ``gfs_hdd``, ``gfs_ra0``.
    """
    systems: list[dict[str, Any]] = [
        {"label": entry["system"], "options": {}, **entry}
        if isinstance(entry, dict)
        else {"system": entry, "label": entry, "options": {}}
        for entry in experiment["systems"]
    ]
    for option, ending in (("device", "_{}"), ("read_ahead_kb", "_ra{}")):
        systems = [
            entry
            if value == AS_IS
            else {
                **entry,
                "label": entry["label"] + ending.format(value),
                "options": {**entry["options"], option: value},
            }
            for value in experiment.get(option, [AS_IS])
            for entry in systems
        ]
    return systems


def labelled_probes(experiment: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``probes`` in its long form.

    ``probe``, ``label`` (the probe's name where none is given), ``only`` (labels of the systems that it is put to; None: all of them),
    ``parameters`` with defaults filled in.
    """
    found = []
    for entry in experiment.get("probes", []):
        given = {"probe": entry} if isinstance(entry, str) else dict(entry)
        name = given.pop("probe")
        label, only = given.pop("label", name), given.pop("only", None)
        found.append({"probe": name, "label": label, "only": only, "parameters": {**PROBES[name].parameters, **given}})
    return found


def _check_meaning(experiment: Mapping[str, Any], name: str) -> None:
    for key, required in _REQUIRED_INSIDE.items():
        for inner in required:
            if inner not in experiment[key]:
                raise ExperimentError(f"{name}: {key}: key {inner!r} is missing")
    _check_repeats(experiment, name)
    _check_systems(experiment, name)
    used = _check_workloads(experiment, name)
    _check_probes(experiment, name)
    _check_twin(experiment, name)
    _check_sizes(experiment, used, name)


def _check_repeats(experiment: Mapping[str, Any], name: str) -> None:
    if ("repeats" in experiment) == ("adaptive" in experiment):
        raise ExperimentError(
            f"{name}: give one of repeats (a fixed number of boots) and adaptive (as many as the intervals need)"
        )
    rule = adaptive(experiment)
    if rule is not None and "cap" not in rule:
        raise ExperimentError(f"{name}: adaptive: key 'cap' is missing: say how many boots are the most")
    if rule is not None and rule["cap"] <= rule["minimum"]:
        raise ExperimentError(
            f"{name}: adaptive.cap: {rule['cap']} leaves nothing to decide after {rule['minimum']} boots: raise it, or give repeats instead"
        )


def _check_systems(experiment: Mapping[str, Any], name: str) -> None:
    labels: dict[str, int] = {}
    for position, entry in enumerate(labelled_systems(experiment)):
        if entry["system"] not in SYSTEMS:
            raise ExperimentError(
                f"{name}: systems[{position}]: unknown system {entry['system']!r}{_meant(entry['system'], SYSTEMS)}"
            )
        if entry["label"] in labels:
            raise ExperimentError(
                f"{name}: systems[{position}]: label {entry['label']!r} is taken by systems[{labels[entry['label']]}]: "
                "give it another with {system: NAME, label: TEXT}"
            )
        labels[entry["label"]] = position
        if "read_ahead_kb" in entry["options"] and "read_ahead_kb" in experiment.get("settings", {}):
            raise ExperimentError(
                f"{name}: settings.read_ahead_kb: systems have readaheads of their own: give one of both"
            )
        if SYSTEMS[entry["system"]].storage == "share" and entry["options"].get("memory", "memfd") != "memfd":
            raise ExperimentError(
                f"{name}: systems[{position}].options.memory: {entry['options']['memory']!r}: a share's daemon (vhost-user) maps its guest's memory, "
                "which KSM cannot merge then: take the option away, or take gfs_ksm"
            )
        if entry["label"] != entry["system"] and entry["label"] in SYSTEMS:
            raise ExperimentError(
                f"{name}: systems[{position}]: label {entry['label']!r} is the name of another system: choose another"
            )


def _check_workloads(experiment: Mapping[str, Any], name: str) -> list[Workload]:
    try:
        table = workloads(experiment)
    except ValueError as error:
        raise ExperimentError(f"{name}: {error}") from None
    for key in ("residency", "timed", "guest_warm_only"):
        for position, workload in enumerate(experiment.get(key, [])):
            if workload not in table:
                raise ExperimentError(
                    f"{name}: {key}[{position}]: unknown workload {workload!r}{_meant(workload, table)}"
                )
    residency, timed = experiment.get("residency", []), experiment.get("timed", [])
    if not residency and not timed and not experiment.get("probes"):
        raise ExperimentError(f"{name}: residency, timed and probes name nothing to do: name at least one")
    for position, workload in enumerate(residency):
        if not table[workload].reads.countable:
            full = ", ".join(sorted(known for known in table if table[known].reads.full))
            raise ExperimentError(
                f"{name}: residency[{position}]: {workload!r} does not read every page of its part, so copies cannot be counted: take one of {full}"
            )
    for position, workload in enumerate(experiment.get("guest_warm_only", [])):
        if workload not in residency and workload not in timed:
            raise ExperimentError(
                f"{name}: guest_warm_only[{position}]: {workload!r} is neither in residency nor in timed: add it there or take it away"
            )
    if "guest_warm_only" in experiment and "warm" not in experiment["guest_cache"]:
        raise ExperimentError(
            f"{name}: guest_warm_only: guest_cache has no warm state: add it or take guest_warm_only away"
        )
    return [table[workload] for workload in {*residency, *timed}]


def _check_probes(experiment: Mapping[str, Any], name: str) -> None:
    systems = [entry["label"] for entry in labelled_systems(experiment)]
    for position, entry in enumerate(experiment.get("probes", [])):
        place = f"{name}: probes[{position}]"
        given = {"probe": entry} if isinstance(entry, str) else entry
        if given["probe"] not in PROBES:
            raise ExperimentError(f"{place}: unknown probe {given['probe']!r}{_meant(given['probe'], PROBES)}")
        defaults = PROBES[given["probe"]].parameters
        for label in given.get("only", []):
            if label not in systems:
                raise ExperimentError(f"{place}.only: unknown label {label!r}{_meant(label, systems)}")
        for key, value in given.items():
            if key in _PROBE_KEYS:
                continue
            if key not in defaults:
                raise ExperimentError(f"{place}: unknown parameter {key!r}{_meant(key, defaults)}")
            kinds = (int, float) if isinstance(defaults[key], float) else (type(defaults[key]),)
            if type(value) not in kinds:  # a bool is an int to isinstance
                raise ExperimentError(f"{place}.{key}: must be {kinds[-1].__name__}, not {value!r}")
    if max(experiment.get("guests", [1])) > 1 and not experiment.get("probes"):
        raise ExperimentError(
            f"{name}: guests: several guests at once are for probes, and there is none: name one under probes or take guests away"
        )
    labels = [probe["label"] for probe in labelled_probes(experiment)]
    taken = {*experiment.get("residency", []), *experiment.get("timed", [])}
    for position, label in enumerate(labels):
        if label in taken:
            raise ExperimentError(
                f"{name}: probes[{position}]: label {label!r} is taken: give it another with {{probe: NAME, label: TEXT}}"
            )
        taken.add(label)


def _check_twin(experiment: Mapping[str, Any], name: str) -> None:
    table = workloads(experiment)
    used = [
        (f"{key}[{position}]", workload, table[workload])
        for key in ("residency", "timed")
        for position, workload in enumerate(experiment.get(key, []))
    ]
    probes = [(f"probes[{position}]", probe["probe"]) for position, probe in enumerate(labelled_probes(experiment))]
    wrong = why_wrong(experiment["dataset"], used, probes, min(experiment.get("guests", [1])))
    if wrong is not None:
        raise ExperimentError(f"{name}: {wrong}")


def _check_sizes(experiment: Mapping[str, Any], used: Iterable[Workload], name: str) -> None:
    dataset = experiment["dataset"]
    if ("from" in dataset) != ("sha256" in dataset):
        raise ExperimentError(f"{name}: dataset: from and sha256 go together: ./onecopy compare writes both")
    for part in ("large", "small"):
        for number in (f"{part}_mib", f"{part}_files"):
            if "from" not in dataset and not dataset[number]:
                raise ExperimentError(f"{name}: dataset.{number}: 0 is too small: at least 1")
        if dataset[f"{part}_files"] > dataset[f"{part}_mib"] << 20:
            raise ExperimentError(
                f"{name}: dataset: {dataset[f'{part}_files']} {part} files do not fit {dataset[f'{part}_mib']} MiB: every file holds at least one byte"
            )
    trees = 2 if any(workload.reads.part == "both" for workload in used) else 1
    needed = trees * (dataset["large_mib"] + dataset["small_mib"]) + GUEST_RESERVE_MIB
    if needed > experiment["guest"]["memory_mib"]:
        raise ExperimentError(
            f"{name}: guest.memory_mib: {experiment['guest']['memory_mib']} MiB cannot hold "
            f"{'the data set' if trees == 1 else 'both trees of the data set'} beside the guest itself: at least {needed} MiB, or a smaller data set"
        )
    for position, entry in enumerate(labelled_systems(experiment)):
        if "root" in entry["options"] and not dataset.get("guest_root"):
            raise ExperimentError(
                f"{name}: systems[{position}].options.root: guests boot from a data set that is their root tree: add guest_root: true to dataset"
            )
        window = entry["options"].get("window_mib")
        if window is not None and not SYSTEMS[entry["system"]].dax:
            raise ExperimentError(
                f"{name}: systems[{position}].options.window_mib: {entry['system']} has no DAX window: take the option away"
            )
        if window and window & (window - 1):
            raise ExperimentError(
                f"{name}: systems[{position}].options.window_mib: {window} is no power of two, which a PCI device's window has to be: "
                f"{1 << window.bit_length()} is the next"
            )


def _check_renamed_dataset(experiment: Mapping[str, Any], name: str) -> None:
    changed = experiment["tcg"].get("dataset", {})
    given = {"twin": True} | experiment["dataset"]
    if any(given.get(key) != value for key, value in changed.items()) and "name" not in changed:
        raise ExperimentError(
            f"{name}: tcg.dataset: other data under the same name {experiment['dataset'].get('name')!r}: give it a name of its own"
        )


def _schema_message(error: Any) -> str:  # jsonschema leaves its fields untyped
    value, limit = error.instance, error.validator_value
    match error.validator:
        case "additionalProperties":
            known = error.schema["properties"]
            unknown = next(key for key in value if key not in known)
            message = f"unknown key {unknown!r}{_meant(str(unknown), known)}"
        case "required":
            message = f"key {next(key for key in limit if key not in value)!r} is missing: add it"
        case "type":
            kinds = [limit] if isinstance(limit, str) else limit
            message = f"must be {' or '.join(_TYPES[kind] for kind in kinds)}, not {value!r}"
        case "enum":
            message = f"unknown value {value!r}{_meant(str(value), [str(choice) for choice in limit])}"
        case "minimum":
            message = f"{value!r} is too small: at least {limit}"
        case "exclusiveMinimum":
            message = f"{value!r} is too small: more than {limit}"
        case "maximum":
            message = f"{value!r} is too large: at most {limit}"
        case "pattern":
            message = f"{value!r} is no name: small letters, digits and _ alone, a letter first, at most 32"
        case "minItems" | "minLength":
            message = "must not be empty"
        case "uniqueItems":
            message = f"{next(item for item in value if value.count(item) > 1)!r} is named twice: once is enough"
        case _:
            message = _one_line(error.message)
    return message


def _place(path: Iterable[str | int]) -> str:
    place = ""
    for step in path:
        place += f"[{step}]" if isinstance(step, int) else f".{step}" if place else str(step)
    return place


def _meant(word: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f"{f': did you mean {close[0]!r}?' if close else ':'} known: {', '.join(names) or 'none'}"


def _one_line(what: object) -> str:
    return " ".join(str(what).split())
