"""Cycle answers of the tests go to a folder of their own."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("CODESIGN_CACHE_DIR", str(tmp_path_factory.mktemp("cycle")))
    yield
    patch.undo()
