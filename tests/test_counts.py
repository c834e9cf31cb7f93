"""What requests cost, counted where time would be noise: statements and commits of the guard, requests to Glance."""

import io
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench.images import KEEP, Crowd, bring, creating
from bench.pipelines import OCTETS, Application, Environ, Request, StartResponse, ask, expect
from imgguard.attempts import Claim
from imgguard.factory import filter_factory
from imgguard.store import Store
from tests import counting
from tests.harness import InProcessGlance
from tests.identity import Identity
from tests.store.conftest import CREATED, UPLOAD

pytestmark = pytest.mark.usefixtures('glance_knows_its_database')
DATA = bytes(200_000)


@dataclass(slots=True)
class Below:
    """Glance as the guard calls it.

    :ivar read: what Glance has read of the bodies
    """

    application: Application
    requests: int = 0
    read: list[bytes] = field(default_factory=list)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        self.requests += 1
        return self.application({**environ, 'wsgi.input': Noting(environ['wsgi.input'], self.read)}, start_response)


@dataclass(frozen=True, slots=True)
class Noting:
    """A body that notes what is read of it."""

    body: Any
    seen: list[bytes]

    def read(self, *size: int) -> bytes:
        """Read as from the body."""
        self.seen.append(self.body.read(*size))
        return self.seen[-1]


@dataclass(slots=True)
class Blocks:
    """A body that comes in blocks, as servers give it, of the size in which Glance reads."""

    blocks: list[bytes]
    _given: int = 0

    def read(self, size: int = -1, /) -> bytes:
        """The next block."""
        self._given += 1
        return self.blocks[self._given - 1] if self._given <= len(self.blocks) else b''


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
    return guard(in_process_glance, tmp_path)


def guard(in_process_glance: InProcessGlance, tmp_path: Any, **options: str) -> Guarded:
    """Put a guard with these options before Glance."""
    from glance.api.middleware import context
    from paste.deploy import loadapp  # type: ignore[import-untyped]

    root = loadapp(f'config:{max(in_process_glance.glance.folder.glob("paste-*.ini"))}', name='rootapp')
    store = f'sqlite:///{tmp_path}/imgguard.db'
    below = Below(root)
    make = filter_factory({}, connection=store, **options)
    application = Identity(context.ContextMiddleware.factory({})(make(below)))
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
    # What is known of the image; and the row of one that was not known, locked.
    assert statements['SELECT'] == (1 if sticky else 2)
    # The attempt; and the row of an image that was not known.
    assert statements['INSERT'] == (1 if sticky else 2)
    # The image is claimed; the attempt is ended, and the image is free.
    assert statements['UPDATE'] == 3


@pytest.mark.parametrize('chunked', [False, True])
def test_a_guarded_upload_that_fails_costs_as_much_where_events_are_published(
        in_process_glance: InProcessGlance, tmp_path: Path, chunked: bool) -> None:
    """What is to be published is written by the transaction that ends the attempt."""
    file = tmp_path / 'imgguard.conf'
    file.write_text('[imgguard]\nrequeue = auto\n[oslo_messaging_notifications]\ndriver = log\n')
    silent, telling = guard(in_process_glance, tmp_path), guard(in_process_glance, tmp_path, oslo_config_file=str(file))

    def cost(guarded: Guarded) -> dict[str, int]:
        return guarded.cost(put(guarded.image(keep=True), chunked, HTTP_X_OPENSTACK_IMAGE_SIZE='1'), 400)[0]

    without, told = cost(silent), cost(telling)
    assert told['COMMIT'] == without['COMMIT'] == told['BEGIN']
    # The attempt; and what happened to its image.
    assert (without['INSERT'], told['INSERT']) == (1, 2)


@pytest.mark.parametrize('keep', [True, False], ids=['guarded', 'not'])
@pytest.mark.parametrize('chunked', [True, False])
def test_no_byte_of_a_body_is_copied(guarded: Guarded, chunked: bool, keep: bool) -> None:
    blocks = [bytes([number]) * 65536 for number in range(4)]
    path = guarded.image(keep)
    guarded.below.read.clear()
    expect(guarded.application, Request(
        'PUT', f'{path}/file', body=lambda: Blocks(blocks), length=None if chunked else 4 * 65536, content_type=OCTETS,
        environ=KEEP if keep else {}), 204)
    assert [id(block) for block in guarded.below.read if block] == [id(block) for block in blocks]


@pytest.mark.parametrize('uploads', [0, 1, 16])
def test_a_sign_of_life_costs_a_process_as_much_for_many_uploads_as_for_one(tmp_path: Path, uploads: int) -> None:
    url = f'sqlite:///{tmp_path}/guard.db'
    store = Store(url, 60)
    store.upgrade()
    claims = [store.begin(f'image-{number}', CREATED, None, UPLOAD) for number in range(uploads)]
    received = {(claim.key, claim.number): 1 for claim in claims if isinstance(claim, Claim)}
    with counting.statements(url) as seen:
        assert store.renew('worker', 'host', received) == set(received)
    counted = Counter(statement.split()[0] for statement in seen)
    store.close()
    # Who holds what; what is held, and the attempts that hold it; the worker.
    assert counted == {'BEGIN': 1, 'INSERT': 1, 'COMMIT': 1, **({'SELECT': 1, 'UPDATE': 2} if uploads else {})}
