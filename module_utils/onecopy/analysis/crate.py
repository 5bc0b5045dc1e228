"""The RO-Crate metadata of an archived run: a Workflow Run Crate whose workflow is the kit's playbook and whose action
is the run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rocrate.model import ContextEntity  # type: ignore[import-untyped]
from rocrate.rocrate import ROCrate  # type: ignore[import-untyped]

METADATA = "ro-crate-metadata.json"
WORKFLOW = "source/playbooks/experiment.yml"
README = "README.md"
WORKFLOW_CRATE = "https://w3id.org/workflowhub/workflow-ro-crate/1.0"
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    WORKFLOW_CRATE: ("Workflow RO-Crate", "1.0"),
}
_LICENCE = "https://spdx.org/licenses/Apache-2.0"
_LANGUAGE = "#ansible"
_MEDIA_TYPES = {
    "json": "application/json",
    "jsonl": "application/jsonl",
    "html": "text/html",
    "md": "text/markdown",
    "yml": "application/yaml",
}


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the metadata says about a run. ``started`` and ``ended`` are in UTC; ``values`` are the run's small inputs
    by name.
    """

    experiment: str
    run_id: str
    description: str
    revision: str
    started: datetime
    ended: datetime
    values: Mapping[str, str | int]


def metadata(facts: RunFacts, inputs: Mapping[str, str], outputs: Mapping[str, str], sizes: Mapping[str, int]) -> bytes:
    """Bytes of ``ro-crate-metadata.json``: the same arguments give the same bytes.

    ``inputs`` and ``outputs`` map the archive's file names to a description; ``sizes`` gives the bytes of each of
    them, of the workflow and of README.md.
    """
    crate = ROCrate(version="1.1")
    root = crate.root_dataset
    root["name"] = f"onecopy: run {facts.run_id} of experiment {facts.experiment}"
    root["description"] = facts.description
    root["datePublished"] = _moment(facts.ended)
    root["license"] = crate.add(ContextEntity(crate, _LICENCE, {"@type": "CreativeWork", "name": "Apache License 2.0"}))
    root["conformsTo"] = [
        crate.add(ContextEntity(crate, profile, {"@type": "CreativeWork", "name": name, "version": version}))
        for profile, (name, version) in PROFILES.items()
    ]
    crate.metadata["conformsTo"] = [{"@id": "https://w3id.org/ro/crate/1.1"}, {"@id": WORKFLOW_CRATE}]
    workflow = _workflow(crate, facts, sizes)
    crate.add_file(
        dest_path=README,
        properties={
            "name": README,
            "about": root,
            "encodingFormat": "text/markdown",
            "contentSize": str(sizes[README]),
        },
    )
    crate.add_dataset(
        dest_path="source/",
        properties={"name": "source", "description": f"the kit's source at revision {facts.revision}"},
    )
    used = [
        _file(crate, name, text, sizes, _parameter(crate, workflow, "input", name, "File"))
        for name, text in sorted(inputs.items())
    ]
    used += [
        _value(crate, name, value, _parameter(crate, workflow, "input", name, _kind(value)))
        for name, value in sorted(facts.values.items())
    ]
    made = [
        _file(crate, name, text, sizes, _parameter(crate, workflow, "output", name, "File"))
        for name, text in sorted(outputs.items())
    ]
    action = {
        "@type": "CreateAction",
        "name": f"run {facts.run_id}",
        "description": facts.description,
        "startTime": _moment(facts.started),
        "endTime": _moment(facts.ended),
        "actionStatus": "http://schema.org/CompletedActionStatus",
        "instrument": {"@id": workflow.id},
        "object": [{"@id": entity.id} for entity in used],
        "result": [{"@id": entity.id} for entity in made],
    }
    root["mentions"] = crate.add(ContextEntity(crate, "#run", action))
    return (json.dumps(crate.metadata.generate(), indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _workflow(crate: ROCrate, facts: RunFacts, sizes: Mapping[str, int]) -> Any:
    language = {"@type": "ComputerLanguage", "name": "Ansible", "url": "https://docs.ansible.com/"}
    workflow = crate.add_file(
        dest_path=WORKFLOW,
        properties={
            "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"],
            "name": "experiment",
            "description": "plans an experiment, runs its trials on KVM hosts, fetches the records",
            "programmingLanguage": crate.add(ContextEntity(crate, _LANGUAGE, language)),
            "version": facts.revision,
            "encodingFormat": _MEDIA_TYPES["yml"],
            "conformsTo": {"@id": "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"},
            "license": {"@id": _LICENCE},
            "contentSize": str(sizes[WORKFLOW]),
            "input": [],
            "output": [],
        },
    )
    crate.mainEntity = workflow
    return workflow


def _parameter(crate: ROCrate, workflow: Any, side: str, name: str, kind: str) -> Any:
    properties = {"@type": "FormalParameter", "name": name, "additionalType": kind}
    parameter = crate.add(ContextEntity(crate, f"#{side}-{name}", properties))
    workflow[side] = [*workflow[side], parameter]
    return parameter


def _file(crate: ROCrate, name: str, description: str, sizes: Mapping[str, int], parameter: Any) -> Any:
    media_type = _MEDIA_TYPES.get(name.rpartition(".")[2], "text/plain")
    properties = {
        "name": name,
        "description": description,
        "encodingFormat": media_type,
        "contentSize": str(sizes[name]),
    }
    return crate.add_file(dest_path=name, properties=properties | {"exampleOfWork": parameter})


def _value(crate: ROCrate, name: str, value: str | int, parameter: Any) -> Any:
    properties = {"@type": "PropertyValue", "name": name, "value": str(value), "exampleOfWork": parameter}
    return crate.add(ContextEntity(crate, f"#value-{name}", properties))


def _kind(value: str | int) -> str:
    return "Integer" if isinstance(value, int) else "Text"


def _moment(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="seconds")
