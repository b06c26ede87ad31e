"""What the tests of exports share."""

from pathlib import Path

import pytest

from tests.export_run import write_prepared


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder with a few test slates."""
    folder = tmp_path_factory.mktemp("data") / "prepared"
    write_prepared(folder)
    return folder
