"""Virtual environments, for tests that need other versions of packages."""

import subprocess
import sys

import pytest


def environment(folder, packages):
    """Return the interpreter of an environment with some packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    installed = subprocess.run(
        [*pip, "install", "--quiet", "--only-binary=:all:", *packages],
        capture_output=True,
        text=True,
        check=False,
    )
    if installed.returncode:
        reason = (installed.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"pip could not install {packages[0]}: {reason}")
    return python
