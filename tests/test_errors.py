"""Errors that users see."""

from importlib import import_module

import pytest

from aind_etl.errors import ConfigurationError, needs_pipeline


def test_a_missing_package_can_be_installed_and_a_missing_module_of_our_own_is_a_defect():
    for extra, name in (("pipeline", "no_package"), ("mcp", "aind_etl_other.part")):
        with (
            pytest.raises(
                ConfigurationError,
                match=rf"This needs the package '{name.partition('.')[0]}'.*aind-etl\[{extra}\]",
            ),
            needs_pipeline("This", extra=extra),
        ):
            import_module(name)
    for name in ("aind_etl.no_module", "aind_etl.sources.no_module"):
        with pytest.raises(ModuleNotFoundError, match=name), needs_pipeline("This"):
            import_module(name)
