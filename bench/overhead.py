"""What the guard costs a request: ``python -m bench.overhead [--rounds FACTOR]``.

The real Glance runs in this process, on SQLite and a file store in a temporary folder. Each case is measured twice:

* A/B: in each round the bare Glance, the bare Glance once more (the control) and the guarded one answer the same
  request in shuffled order; the ratios of a round are paired. What the control spreads, A/B cannot resolve.
* self-time: the time in the guard less the time in Glance below it for the same request. It has no noise of Glance,
  but does not see what the guard makes Glance do; of an upload that is the reader around its body.
"""

import argparse
import io
import json
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from demo.private_glance import lay_out
from tests.harness import IDENTITY, InProcessGlance
from tests.identity import Identity, token

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

MEBIBYTE: Final = 1024**2
CALLER: Final = token('alice', 'project')
KEEP: Final = {'HTTP_X_OPENSTACK_IMAGE_KEEP_ON_FAILURE': 'true'}


class Timed:
    """An application whose time is added up, that of its answer's iteration too."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.seconds = 0.0

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        began = time.perf_counter()
        answer = self.application(environ, start_response)
        self.seconds += time.perf_counter() - began
        return self._iterated(answer)

    def _iterated(self, answer: Iterable[bytes]) -> Iterator[bytes]:
        began = time.perf_counter()
        try:
            for chunk in answer:
                self.seconds += time.perf_counter() - began
                yield chunk
                began = time.perf_counter()
        finally:
            close = getattr(answer, 'close', None)
            if close is not None:
                close()
            self.seconds += time.perf_counter() - began


@dataclass(frozen=True, slots=True)
class Pipelines:
    """The same Glance thrice: bare, guarded, and guarded with clocks around and below the guard."""

    bare: Application
    guarded: Application
    clocked: Application
    guard: Timed
    glance: Timed


@dataclass(frozen=True, slots=True)
class Case:
    """A request that is measured.

    :param rounds: how many rounds at factor 1
    :param prepare: gives the path of a request of its own each time
    """

    name: str
    rounds: int
    method: str
    status: int
    prepare: Callable[[], str]
    body: bytes = b''


def load(glance: InProcessGlance, folder: Path) -> Pipelines:
    """Put the pipelines together as the paste file does; the filter before Glance is the one that is measured."""
    from glance.api.middleware import context
    from paste.deploy import loadapp  # type: ignore[import-untyped]

    from imgguard.factory import filter_factory

    glance.load(None)
    root = loadapp(f'config:{max(glance.glance.folder.glob("paste-*.ini"))}', name='rootapp')

    def behind_identity(application: Application) -> Application:
        return Identity(context.ContextMiddleware.factory({})(application))

    make = filter_factory({}, connection=f'sqlite:///{folder}/imgguard.db')
    below = Timed(root)
    around = Timed(make(below))
    return Pipelines(behind_identity(root), behind_identity(make(root)), behind_identity(around), around, below)


def send(application: Application, method: str, path: str, body: bytes = b'', content: str = '',
         **more: str) -> tuple[int, bytes]:
    """Send a request; returns status and body of its answer."""
    said: list[str] = []

    def start_response(status: str, *_: Any) -> Callable[[bytes], object]:
        said.append(status)
        return bytes

    path, _, query = path.partition('?')
    environ: Environ = {
        'REQUEST_METHOD': method, 'SCRIPT_NAME': '', 'PATH_INFO': path, 'QUERY_STRING': query,
        'SERVER_NAME': 'localhost', 'SERVER_PORT': '80', 'SERVER_PROTOCOL': 'HTTP/1.1', 'HTTP_HOST': 'localhost',
        'HTTP_X_AUTH_TOKEN': CALLER,
        'CONTENT_LENGTH': str(len(body)), 'CONTENT_TYPE': content, 'wsgi.version': (1, 0), 'wsgi.url_scheme': 'http',
        'wsgi.input': io.BytesIO(body), 'wsgi.errors': io.StringIO(), 'wsgi.multithread': True,
        'wsgi.multiprocess': True, 'wsgi.run_once': False, **more}
    answer = application(environ, start_response)
    try:
        received = b''.join(answer)
    finally:
        close = getattr(answer, 'close', None)
        if close is not None:
            close()
    return int(said[-1][:3]), received


class Images:
    """Makes the images that the cases need."""

    def __init__(self, pipelines: Pipelines) -> None:
        self._pipelines = pipelines

    def queued(self, **more: str) -> str:
        """The path of a new image; kept when the header is among ``more``."""
        document = {'name': 'image', 'disk_format': 'raw', 'container_format': 'bare',
                    **{f'property_{number}': 'value' for number in range(5)}}
        status, body = send(self._pipelines.guarded, 'POST', '/v2/images', json.dumps(document).encode(),
                            'application/json', **more)
        assert status == 201, body
        return f'/v2/images/{json.loads(body)["id"]}'

    def active(self) -> str:
        """The path of an active image nobody asked to keep."""
        path = self.queued()
        assert self.upload(self._pipelines.bare, path) == 204
        return path

    def in_error(self) -> str:
        """The path of an image in error."""
        path = self.queued(**KEEP)
        assert self.upload(self._pipelines.guarded, path, HTTP_X_OPENSTACK_IMAGE_SIZE='1') == 400
        return path

    def to_upload(self) -> str:
        """The path of the data of a new image that is to be kept."""
        return f'{self.queued(**KEEP)}/file'

    @staticmethod
    def upload(application: Application, path: str, **more: str) -> int:
        """Upload a little; returns the status."""
        return send(application, 'PUT', f'{path}/file', b'data', 'application/octet-stream', **more)[0]


def once(case: Case, application: Application) -> float:
    """Send the request of the case once; returns seconds."""
    path = case.prepare()
    began = time.perf_counter()
    status, _ = send(application, case.method, path, case.body, 'application/octet-stream')
    took = time.perf_counter() - began
    assert status == case.status, status
    if case.body:
        send(application, 'DELETE', path.removesuffix('/file'))
    return took


def spread(values: list[float]) -> str:
    """Median and quartiles of ratios, in percent over 1."""
    low, _, high = statistics.quantiles(values, n=4)
    return f'{100 * (statistics.median(values) - 1):+6.2f} % ({100 * (low - 1):+.1f}..{100 * (high - 1):+.1f})'


def measure(case: Case, pipelines: Pipelines, rounds: int) -> str:
    """Measure one case; returns a line of the table."""
    ways = {'bare': pipelines.bare, 'control': pipelines.bare, 'guarded': pipelines.guarded}
    took: dict[str, list[float]] = {name: [] for name in ways}
    own, whole = [], []
    for application in (*ways.values(), pipelines.clocked):
        once(case, application)
    for _ in range(rounds):
        for name in random.sample(list(ways), len(ways)):
            took[name].append(once(case, ways[name]))
        path = case.prepare()
        pipelines.guard.seconds = pipelines.glance.seconds = 0.0
        send(pipelines.clocked, case.method, path, case.body, 'application/octet-stream')
        own.append(pipelines.guard.seconds - pipelines.glance.seconds)
        whole.append(pipelines.glance.seconds)
        if case.body:
            send(pipelines.bare, 'DELETE', path.removesuffix('/file'))
    ratios = {name: [each / base for each, base in zip(took[name], took['bare'], strict=True)] for name in ways}
    mine, low, high = statistics.median(own), *statistics.quantiles(own, n=4)[::2]
    return (f'{case.name:<24}{rounds:>6}{1000 * statistics.median(took["bare"]):>10.2f}  '
            f'{spread(ratios["guarded"]):>26}  {spread(ratios["control"]):>26}  '
            f'{1e6 * mine:>7.0f} ({1e6 * low:.0f}..{1e6 * high:.0f}) us, {100 * mine / statistics.median(whole):.2f} %')


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog='python -m bench.overhead', description='What the guard costs a request.')
    parser.add_argument('--rounds', type=float, default=1.0, metavar='FACTOR', help='more or fewer rounds (1)')
    factor: float = parser.parse_args().rounds
    warnings.simplefilter('ignore')
    with tempfile.TemporaryDirectory(prefix='imgguard-bench-') as place:
        folder = Path(place)
        glance = InProcessGlance(lay_out(folder / 'glance', guard=None, identity=IDENTITY))
        pipelines = load(glance, folder)
        images = Images(pipelines)
        active = [images.active() for _ in range(100)]
        cases = [
            Case('GET active', 300, 'GET', 200, lambda: active[0]),
            Case('list of 100', 40, 'GET', 200, lambda: '/v2/images?limit=100&status=active'),
        ]
        print(f'{"":<24}{"rounds":>6}{"bare ms":>10}  {"guarded/bare":>26}  {"control (bare/bare)":>26}  self-time')
        for case in cases:
            print(measure(case, pipelines, max(4, round(factor * case.rounds))), flush=True)
        queued, failed = images.queued(), images.in_error()
        for case in [
            Case('GET queued, unguarded', 300, 'GET', 200, lambda: queued),
            Case('GET in error', 300, 'GET', 200, lambda: failed),
            Case('list of 100, 1 in error', 40, 'GET', 200, lambda: '/v2/images?limit=100'),
            Case('PUT 1 KiB', 60, 'PUT', 204, images.to_upload, bytes(1024)),
            Case('PUT 16 MiB', 30, 'PUT', 204, images.to_upload, bytes(16 * MEBIBYTE)),
        ]:
            print(measure(case, pipelines, max(4, round(factor * case.rounds))), flush=True)
        glance.close()


if __name__ == '__main__':
    main()
