"""Print what the image's Python needs besides the package itself, one requirement a line.

Called by the Dockerfile with the path of ``pyproject.toml``, so that what the package stands on is
a layer of its own. Only the standard library is at hand there.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
optional = (one for extra in extras.values() for one in extra)
# An extra may name another one of this package.
others = (one for one in optional if not one.startswith(f"{project['name']}["))
needed = [*project["dependencies"], *others]
sys.stdout.write("\n".join(needed) + "\n")
