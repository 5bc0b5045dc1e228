"""Builds the daemon's zipapp: `python3 -m hostfsd.build TARGET`. Equal sources give equal bytes."""

import os
import sys
import zipfile
from pathlib import Path

_TIME = (1980, 1, 1, 0, 0, 0)
_MAIN = "import sys\n\nfrom hostfsd.cli import main\n\nsys.exit(main())\n"
_NOT_SHIPPED = {"build.py", "__main__.py"}


def build(target: Path) -> None:
    """Write the executable zipapp to `target`, replacing it in one step."""
    package = Path(__file__).resolve().parent
    members = {"__main__.py": _MAIN.encode()}
    for source in sorted(package.glob("*.py")):
        if source.name not in _NOT_SHIPPED:
            members[f"hostfsd/{source.name}"] = source.read_bytes()
    partial = target.with_name(target.name + ".part")
    with partial.open("wb") as stream:
        stream.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            for name, data in members.items():
                archive.writestr(zipfile.ZipInfo(name, _TIME), data)
    partial.chmod(0o755)
    os.replace(partial, target)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python3 -m hostfsd.build TARGET")
    build(Path(sys.argv[1]))
