"""ro-crate-metadata.json against the Workflow Run Crate profile, by the profile's own validator, offline."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.onecopy.analysis import archive, crate, handoff
from rocrate.rocrate import ROCrate
from rocrate_validator import services
from rocrate_validator.models import Severity, ValidationResult
from rocrate_validator.utils.http import HttpRequester

_BIOSCHEMAS = "https://bioschemas.org/"


@pytest.fixture
def unpacked(run: Path, repository: Path, tmp_path: Path) -> Path:
    collected = handoff.collect(run, repository)
    archive.unpack(archive.Archive(collected.top, collected.files, ""), tmp_path / "crate")
    return tmp_path / "crate"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The validator reads one document from the network: the JSON-LD context of RO-Crate 1.1.

    It gets the one that the rocrate package ships, of a later version, with the four terms that moved since set back.
    """
    context = json.loads((resources.files("rocrate") / "data" / "ro-crate.jsonld").read_text())
    workflow = f"{_BIOSCHEMAS}ComputationalWorkflow"
    context["@context"] |= {
        "ComputationalWorkflow": workflow,
        "FormalParameter": f"{_BIOSCHEMAS}FormalParameter",
        "input": f"{workflow}#input",
        "output": f"{workflow}#output",
    }
    text = json.dumps(context)

    def get(_: HttpRequester, url: str, **__: Any) -> SimpleNamespace:
        assert url == "https://w3id.org/ro/crate/1.1/context"
        return SimpleNamespace(
            status_code=200,
            json=lambda: context,
            text=text,
            content=text.encode(),
            headers={"Content-Type": "application/ld+json"},
            url=url,
        )

    monkeypatch.setattr(HttpRequester, "get", get, raising=False)


def validate(directory: Path) -> ValidationResult:
    return services.validate(
        {
            "rocrate_uri": str(directory),
            "profile_identifier": "workflow-run-crate",
            "requirement_severity": Severity.REQUIRED,
            "offline": True,
            "skip_availability_check": True,
        }
    )


def test_every_requirement_of_the_profile_is_met(unpacked: Path) -> None:
    result = validate(unpacked)
    assert [issue.message for issue in result.get_issues()] == []
    assert len(result.executed_checks) > 50


@pytest.mark.parametrize("damage", ["no workflow", "no action", "no file"])
def test_the_validator_would_have_noticed(unpacked: Path, damage: str) -> None:
    path = unpacked / crate.METADATA
    document = json.loads(path.read_text())
    graph = {entity["@id"]: entity for entity in document["@graph"]}
    if damage == "no workflow":
        del graph["./"]["mainEntity"]
    elif damage == "no action":
        del graph["#run"]["instrument"]
    else:
        (unpacked / "run" / "results.jsonl").unlink()
    path.write_text(json.dumps(document))
    assert not validate(unpacked).passed()


def test_the_library_reads_it_back(unpacked: Path) -> None:
    read = ROCrate(unpacked)
    assert read.mainEntity.id == crate.WORKFLOW
    action = read.get("#run")
    assert action["startTime"].endswith("+00:00")
    assert action["instrument"] == read.mainEntity
    assert {entity.id for entity in action["object"]} == {
        "run/plan.json",
        "experiment.yml",
        "#value-seed",
        "#value-accelerator",
    }
    assert "run/results.jsonl" in {entity.id for entity in action["result"]}
