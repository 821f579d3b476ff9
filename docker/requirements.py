"""Print the dependencies of the package and its extras, one requirement per line.

The Dockerfile calls it with the path of ``pyproject.toml``, so that the dependencies are a layer of
their own. It runs with the standard library alone.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
optional = (one for extra in extras.values() for one in extra)
# An extra may name another extra of this package.
others = (one for one in optional if not one.startswith(f"{project['name']}["))
needed = [*project["dependencies"], *others]
sys.stdout.write("\n".join(needed) + "\n")
