"""README.md of an archive: what it is, what lies where, how to verify and repeat it, and what is not in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .crate import RunFacts

_TEXT = """# {run_id}: a run of experiment {experiment}

{description}

Made by onecopy at revision `{revision}`.
{warning}
## Check it
```sh
sha256sum --check SHA256SUMS.sha256 SHA256SUMS    # every file, with nothing but coreutils
./onecopy verify ARCHIVE.tar                      # also rebuilds summary and report from the raw records, offline
./onecopy reproduce ARCHIVE.tar -i inventories/mine    # the same experiment on your hosts, then claim by claim
```
The checksums in the archive show damage. Whether it is the archive that its maker meant shows only its SHA-256,
which `handoff` printed: have it from the maker by another way, and compare.

## What lies where
| file | what it is |
|---|---|
| `experiment.yml` | the experiment, as it was run |
{files}
| `source/` | the kit's source at that revision, with the pinned packages of the controller in `requirements/` |
| `ro-crate-metadata.json` | the same for machines: a Workflow Run Crate |

## What is not in it
{absent}
"""


def text(facts: RunFacts, dirty: bool, files: Mapping[str, str], absent: Sequence[str]) -> str:
    """The page; ``files`` maps names to descriptions, ``absent`` has one line per thing that the run did not leave
    behind.
    """
    warning = "\n**The working tree had uncommitted changes: `source/` is not exactly what ran.**\n" if dirty else ""
    missing = [f"- `{name}`:{what}" for name, _, what in (line.partition(":") for line in absent)]
    missing.append(
        "- The guest image and the data set themselves: the kit makes both from their inputs; their digests are above where they were recorded."
    )
    return _TEXT.format(
        run_id=facts.run_id,
        experiment=facts.experiment,
        description=facts.description,
        revision=facts.revision,
        warning=warning,
        files="\n".join(f"| `{name}` | {what} |" for name, what in files.items()),
        absent="\n".join(missing),
    )
