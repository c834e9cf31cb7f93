"""What is measured: each case with its request, and the goal for it."""

from collections.abc import Iterator
from functools import cache, partial
from typing import Final

from bench import images
from bench.images import Crowd, Images
from bench.measuring import Case, Goal
from bench.pipelines import OCTETS, Body, Pipelines, Request

MEBIBYTE: Final = 1024**2
_PAGES: Final = (25, 100, 1000)
_CROWDED: Final = 100_000
# Of a goal: a request that reaches the store, by its database.
_ONE_QUERY: Final = {'sqlite': Goal(0.03), '': Goal(0.12)}
_UPLOAD: Final = {'': Goal(0.003, 0.004)}
_MICROSECOND: Final = 1e-6


class Scene:
    """Where the cases play; images are made when the first case needs them.

    :param glance: URL of Glance's own database
    :param store: URL of the guard's store
    """

    def __init__(self, pipelines: Pipelines, glance: str, store: str) -> None:
        self.pipelines = pipelines
        self.images = Images(pipelines)
        self._glance = glance
        self._store = store
        self.active = cache(self.images.active)
        self.queued = cache(self.images.queued)
        self.in_error = cache(self.images.in_error)
        self.crowd = cache(self._crowd)

    def _crowd(self, crowd: Crowd) -> str:
        """The project of a crowd."""
        images.bring(crowd, self._glance, self._store)
        return crowd.project


class Zeros:
    """A body of zeros."""

    _BLOCK: Final = bytes(MEBIBYTE)

    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, size: int = -1, /) -> bytes:
        """Read at most a MiB."""
        taken = min(self._left, len(self._BLOCK) if size < 0 else size, len(self._BLOCK))
        self._left -= taken
        return self._BLOCK[:taken]

    def readline(self, size: int = -1, /) -> bytes:
        """There are no lines."""
        return self.read(size)


def get_active(scene: Scene, name: str = 'GET active', goal: dict[str, Goal] | None = None) -> Case:
    """The request that everything is measured with."""
    return Case(name, 400, lambda: Request('GET', scene.active()), goal=goal or {})


def all_of_them(scene: Scene, full: bool) -> Iterator[Case]:
    """Every case.

    :param full: those that take long too
    """
    yield Case('not ours', 400, lambda: Request('GET', f'{scene.active()}/members'),
               goal={'': Goal(seconds=3 * _MICROSECOND)})
    yield get_active(scene, goal={'': Goal(0.005)})
    yield Case('GET queued, not kept', 400, lambda: Request('GET', scene.queued()), goal=_ONE_QUERY)
    yield Case('GET in error', 400, lambda: Request('GET', scene.in_error()), goal=_ONE_QUERY)
    yield from lists(scene)
    yield from filters(scene)
    yield from writes(scene)
    sizes = {'1 KiB': 1024, '1 MiB': MEBIBYTE, '256 MiB': 256 * MEBIBYTE}
    if full:
        sizes['2 GiB'] = 2048 * MEBIBYTE
    for size, length in sizes.items():
        for chunked in (False, True):
            for kept in (True, False):
                yield upload(scene, size, length, chunked, kept)
    yield Case('16 PUT of 1 MiB at once, guarded', 12, lambda: data(scene, MEBIBYTE, False, True), 204,
               after=lambda request: scene.images.delete(image_of(request)), at_once=16)


def lists(scene: Scene) -> Iterator[Case]:
    """Pages of a list of 1000 images, of which some are in error."""
    most = max(_PAGES)
    crowds = {'none in error': Crowd('none', most), '10 % in error': Crowd('some', most, every=10),
              'all in error': Crowd('all', most, every=1),
              'all queued, not kept': Crowd('queued', most, every=1, in_error=False)}
    goals = {('none in error', most): {'': Goal(0.002)},
             ('10 % in error', most): {'sqlite': Goal(0.015), '': Goal(0.03)}}
    for name, crowd in crowds.items():
        for page in _PAGES:
            yield Case(f'list of {page}, {name}', max(10, 2000 // page), partial(_page_of, scene, crowd, page),
                       goal=goals.get((name, page), {}))


def _page_of(scene: Scene, crowd: Crowd, page: int) -> Request:
    return Request('GET', f'/v2/images?limit={page}', scene.crowd(crowd))


def filters(scene: Scene) -> Iterator[Case]:
    """``?status=error`` beside Glance's own ``?status=queued``, which finds the same images there."""
    crowd = Crowd('crowd', _CROWDED, every=_CROWDED // 1000, properties=0)

    @cache
    def marker() -> str:
        found = images.of(scene.pipelines.bare, '/v2/images?status=queued&limit=900', scene.crowd(crowd))
        return f'&marker={found[-1]["id"]}'

    def asking(status: str, deep: bool) -> Request:
        return Request('GET', f'/v2/images?status={status}&limit=100{marker() if deep else ""}', scene.crowd(crowd))

    for page, deep in (('first', False), ('deep', True)):
        yield Case(f'?status=error, 1000 of 100 000, {page} page', 15, partial(asking, 'error', deep),
                   bare=partial(asking, 'queued', deep))


def writes(scene: Scene) -> Iterator[Case]:
    """Creates."""
    for name, keep in (('not kept', False), ('kept', True)):
        yield Case(f'create, {name}', 60, partial(images.creating, keep), 201)


def upload(scene: Scene, size: str, length: int, chunked: bool, kept: bool) -> Case:
    """An upload of zeros."""
    rounds = 60 if length <= MEBIBYTE else max(3, 1024 * MEBIBYTE // length)
    return Case(f'PUT {size}, {"chunked" if chunked else "length"}, {"guarded" if kept else "not"}', rounds,
                lambda: data(scene, length, chunked, kept), 204,
                after=lambda request: scene.images.delete(image_of(request)),
                goal=_UPLOAD if kept else {'': Goal(0.001)})


def data(scene: Scene, length: int, chunked: bool, kept: bool) -> Request:
    """A request that uploads zeros to a new image."""
    def body() -> Body:
        return Zeros(length)

    return Request('PUT', f'{scene.images.queued(keep=kept)}/file', body=body, length=None if chunked else length,
                   content_type=OCTETS)


def image_of(request: Request) -> str:
    """The path of the image that a request brought data for."""
    return request.path.removesuffix('/file')
