from collections.abc import Iterator

import pytest

from tests.gang.gang import Gang


@pytest.fixture(scope="session")
def gang() -> Iterator[Gang]:
    gang = Gang()
    yield gang
    gang.close()
