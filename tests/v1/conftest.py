"""Fixtures: a real Glance 15.0.2 with the APIs v1 and v2; tests that ask for it are skipped without Python 2.7."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from demo.private_glance import Sections
from imgguard.proxy import Proxy
from tests.old_glance import OldGlance
from tests.sources import Source, serving
from tests.v1.cases import CAP
from tests.v1.environment import environment
from tests.v1.guarding import guarding
from tests.v1.images import V1Images
from tests.v1.shelf import ALICE


class StartOldGlance(Protocol):
    """See :func:`start_old_glance`."""

    def __call__(self, settings: Sections | None = None, policy: Mapping[str, str] | None = None) -> OldGlance: ...


@pytest.fixture(scope='session')
def old_glance_environment() -> Path:
    """Where glance 15.0.2 is installed."""
    return environment()


@pytest.fixture(scope='module')
def start_old_glance(
    old_glance_environment: Path, tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[StartOldGlance]:
    """``start_old_glance(settings=, policy=)``: one more, of its own folder and database, stopped after the module."""
    with contextlib.ExitStack() as running:
        def run(settings: Sections | None = None, policy: Mapping[str, str] | None = None) -> OldGlance:
            folder = tmp_path_factory.mktemp('old-glance') / 'glance'
            return running.enter_context(OldGlance(old_glance_environment, folder, settings, policy))

        yield run


@pytest.fixture(scope='module')
def old_glance(start_old_glance: StartOldGlance) -> OldGlance:
    """One for the module."""
    return start_old_glance()


@pytest.fixture(scope='module')
def glance(start_old_glance: StartOldGlance) -> OldGlance:
    """One for the module, with a cap on the size of images."""
    return start_old_glance({'DEFAULT': {'image_size_cap': str(CAP)}})


@pytest.fixture(scope='module')
def source() -> Iterator[Source]:
    """A server that gives data well and badly."""
    with serving() as served:
        yield served


@pytest.fixture(scope='module')
def port(glance: OldGlance, store: Path) -> Iterator[int]:
    """Of a guard in front of ``glance``, whose store is in the folder that a module's fixture ``store`` names."""
    with guarding(glance, store, by_database=False) as port:
        yield port


@pytest.fixture
def images(port: int) -> V1Images:
    """The owner of the images of :mod:`tests.v1.shelf`, behind the guard."""
    return V1Images(port, ALICE)


@pytest.fixture
def bare(glance: OldGlance) -> V1Images:
    """The same past the guard."""
    return V1Images(glance.port, ALICE)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests for lists that reach Glance, as they come; what earlier tests still follow are single images."""
    sent: list[str] = []
    send = Proxy.__call__

    def counted(self: Proxy, environ: Any, start_response: Any) -> Any:
        if environ['PATH_INFO'].endswith(('/images', '/images/detail')):
            sent.append(f'{environ["REQUEST_METHOD"]} {environ["PATH_INFO"]}?{environ["QUERY_STRING"]}')
        return send(self, environ, start_response)

    monkeypatch.setattr(Proxy, '__call__', counted)
    return sent
