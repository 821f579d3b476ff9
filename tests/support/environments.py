"""Virtual environments, for tests that need other versions of packages."""

import subprocess
import sys

import pytest
from commands import execute


def environment(folder, packages):
    """Return the interpreter of an environment with some packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python]
    installed = execute(*pip, "install", "--quiet", "--only-binary=:all:", *packages)
    if installed.returncode:
        reason = (installed.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"pip could not install {packages[0]}: {reason}")
    return python
