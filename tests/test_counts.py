"""What requests cost, counted where time would be noise: statements and commits of the guard, requests to Glance."""

import io
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from bench.images import KEEP, Crowd, bring, creating
from bench.pipelines import OCTETS, Application, Environ, Request, StartResponse, ask, expect
from imgguard.factory import filter_factory
from tests import counting
from tests.harness import InProcessGlance
from tests.identity import Identity

pytestmark = pytest.mark.usefixtures('glance_knows_its_database')
DATA = bytes(200_000)


@dataclass(slots=True)
class Below:
    """Glance as the guard calls it."""

    application: Application
    requests: int = 0

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        self.requests += 1
        return self.application(environ, start_response)


@dataclass(slots=True)
class Guarded:
    """A guarded Glance, and what requests to it cost."""

    application: Application
    below: Below
    glance: str
    store: str
    _projects: Iterator[int] = field(default_factory=itertools.count)

    def crowd(self, images: int, every: int, in_error: bool = True) -> str:
        """A project with so many images."""
        project = f'counted-{self.store[-40:]}-{next(self._projects)}'
        bring(Crowd(project, images, every, in_error), self.glance, self.store)
        return project

    def image(self, keep: bool = False) -> str:
        """The path of a queued image."""
        return f'/v2/images/{ask(self.application, creating(keep))["id"]}'

    def cost(self, request: Request, status: int = 200) -> tuple[dict[str, int], int]:
        """Statements by their first word, and requests to Glance."""
        self.below.requests = 0
        with counting.statements(self.store) as seen:
            expect(self.application, request, status)
        return dict(Counter(statement.split()[0] for statement in seen)), self.below.requests


@pytest.fixture
def glance_knows_its_database(in_process_glance: InProcessGlance) -> None:
    in_process_glance.load(None)


@pytest.fixture
def guarded(in_process_glance: InProcessGlance, tmp_path: Any) -> Guarded:
    from glance.api.middleware import context
    from paste.deploy import loadapp  # type: ignore[import-untyped]

    root = loadapp(f'config:{max(in_process_glance.glance.folder.glob("paste-*.ini"))}', name='rootapp')
    store = f'sqlite:///{tmp_path}/imgguard.db'
    below = Below(root)
    application = Identity(context.ContextMiddleware.factory({})(filter_factory({}, connection=store)(below)))
    made = Guarded(application, below, f'sqlite:///{in_process_glance.glance.database}', store)
    # The first one of a process connects, and starts its signs of life.
    expect(application, put(made.image(keep=True)), 204)
    return made


def put(path: str, chunked: bool = False, **environ: str) -> Request:
    """An upload."""
    return Request('PUT', f'{path}/file', body=lambda: io.BytesIO(DATA), length=None if chunked else len(DATA),
                   content_type=OCTETS, environ=environ)


def test_what_is_not_ours_costs_nothing(guarded: Guarded) -> None:
    path = guarded.image(keep=True)
    for other in ('/v2/schemas/member', f'{path}/members', '/v2/metadefs/namespaces'):
        assert guarded.cost(Request('GET', other)) == ({}, 1), other


def test_a_look_at_one_image(guarded: Guarded) -> None:
    active, queued, failed = guarded.image(), guarded.image(), guarded.image(keep=True)
    expect(guarded.application, put(active), 204)
    expect(guarded.application, put(failed, HTTP_X_OPENSTACK_IMAGE_SIZE='1'), 400)
    # The first look clears away what the attempt left.
    expect(guarded.application, Request('GET', failed), 200)
    assert guarded.cost(Request('GET', active)) == ({}, 1)
    assert guarded.cost(Request('GET', queued)) == ({'SELECT': 1}, 1)
    assert guarded.cost(Request('GET', failed)) == ({'SELECT': 1}, 1)


@pytest.mark.parametrize('page', [25, 100, 1000])
@pytest.mark.parametrize('every,queries', [(0, 0), (25, 1), (1, 1)], ids=['none', 'some', 'all'])
def test_a_page(guarded: Guarded, page: int, every: int, queries: int) -> None:
    project = guarded.crowd(page, every)
    cost = guarded.cost(Request('GET', f'/v2/images?limit={page}', project))
    assert cost == ({'SELECT': queries} if queries else {}, 1)


def test_a_page_of_images_in_error(guarded: Guarded) -> None:
    """What is overdue, what is silent, what is in error, and the page."""
    project = guarded.crowd(60, 2)
    request = Request('GET', '/v2/images?status=error&limit=25', project)
    assert guarded.cost(request) == ({'SELECT': 4}, 1)


def test_a_create(guarded: Guarded) -> None:
    # A new image waits for its data: it is looked up, as any that is shown.
    assert guarded.cost(creating(False), 201) == ({'SELECT': 1}, 1)
    statements, requests = guarded.cost(creating(True), 201)
    assert (statements['COMMIT'], statements['BEGIN'], requests) == (1, 1, 1)


@pytest.mark.parametrize('chunked', [False, True])
def test_an_upload_that_is_not_kept_costs_one_query(guarded: Guarded, chunked: bool) -> None:
    assert guarded.cost(put(guarded.image(), chunked), 204) == ({'SELECT': 1}, 1)


@pytest.mark.parametrize('chunked', [False, True])
@pytest.mark.parametrize('sticky', [False, True])
def test_a_guarded_upload_costs_two_commits(guarded: Guarded, chunked: bool, sticky: bool) -> None:
    path = guarded.image(keep=sticky)
    statements, requests = guarded.cost(put(path, chunked, **({} if sticky else KEEP)), 204)
    assert (statements['BEGIN'], statements['COMMIT'], requests) == (2, 2, 1)
    # What is known of the image; then its row, locked.
    assert statements['SELECT'] == 2
    # The attempt; and the row of an image that was not known.
    assert statements['INSERT'] == (1 if sticky else 2)
    # The image is claimed; the attempt is ended, and the image is free.
    assert statements['UPDATE'] == 3
