"""What is counted, on the real Glance: exact numbers for each way an attempt can end, and nothing from a caller."""

import itertools
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from webtest import TestApp

from demo.private_glance import write_paste_file
from imgguard import counts, metrics
from imgguard.attempts import Claim, End, Kind, NewAttempt, State
from imgguard.errors import ConfigurationError
from imgguard.images import Caller
from imgguard.middleware import image_guard
from imgguard.operations import Action, Operation, recognise
from imgguard.prometheus import BUCKETS, FileRecorder
from imgguard.stopwatch import Stopwatch
from imgguard.store import Store
from imgguard.store.address import identity
from imgguard.wsgi import Environ, StartResponse
from tests.conftest import OverrideGlance
from tests.harness import IDENTITY, InProcessGlance
from tests.identity import token
from tests.metering import Samples, switch_on
from tests.sockets import eventually
from tests.sources import unused_port
from tests.uploading import KEEP, KEPT, Images, new_project

DATA = b'data of an image' * 1000
ATTEMPTS, FAILURES, RECEIVED = 'imgguard_attempts_total', 'imgguard_failures_total', 'imgguard_received_bytes_total'
ELSEWHERE = NewAttempt(Kind.UPLOAD, True, 'req-1', 'alice', 'red', 'another-host', 'another-host:1:abcd', None)
_numbers = itertools.count()


class Metered:
    """A Glance with the guard and, at ``/metrics``, what it counts; the store is ``{folder}/imgguard.db``."""

    def __init__(self, glance: InProcessGlance, folder: Path, options: dict[str, str] | None = None) -> None:
        from glance.common import config
        from oslo_config import cfg
        self.connection = f'sqlite:///{folder}/imgguard.db'
        path = folder / f'paste-{next(_numbers)}.ini'
        write_paste_file(path, glance.glance, guard={'connection': self.connection}, identity=IDENTITY)
        switch_on(path, {'connection': self.connection, 'multiprocess_directory': f'{folder}/metrics',
                         **(options or {})})
        cfg.CONF.set_override('flavor', 'keystone', group='paste_deploy')
        try:
            self.application = TestApp(config.load_paste_app('glance-api', 'keystone', str(path)), lint=False)
        finally:
            cfg.CONF.clear_override('flavor', group='paste_deploy')
        self.images = Images(self.application, token('alice', new_project()))
        self.store = Store(self.connection, lease_seconds=60)

    def samples(self) -> Samples:
        """What a scrape tells."""
        return Samples(self.application.get('/metrics').text)

    def rename_table(self, name: str, other: str) -> None:
        """Take a table away, or bring it back."""
        engine = create_engine(self.connection)
        with engine.begin() as connection:
            connection.execute(text(f'ALTER TABLE {name} RENAME TO {other}'))
        engine.dispose()

    def silent(self, claim: Claim, seconds: float) -> None:
        """Let the last sign of life be so long ago, and another worker have lived all the while."""
        now = "((julianday('now') - 2440587.5) * 86400.0)"
        engine = create_engine(self.connection)
        with engine.begin() as connection:
            connection.execute(text(f'UPDATE imgguard_images SET running_at = {now} - :s WHERE "key" = :key'),
                               {'s': seconds, 'key': claim.key})
            connection.execute(text('INSERT OR REPLACE INTO imgguard_workers (worker, host, since, seen_at) '
                                    f"VALUES ('witness', 'here', {now} - :s - 100, {now})"), {'s': seconds})
        engine.dispose()


@pytest.fixture
def metered(in_process_glance: InProcessGlance, tmp_path: Path) -> Metered:
    return Metered(in_process_glance, tmp_path)


def test_before_anything_happened_all_is_there_and_zero(metered: Metered) -> None:
    """So that a rate sees the first failure as an increase."""
    samples = metered.samples()
    assert samples[ATTEMPTS, {'kind': 'upload', 'outcome': 'failed'}] == 0
    assert samples[FAILURES, {'code': 'client_disconnected'}] == 0
    assert samples[RECEIVED, {'kind': 'import'}] == 0
    assert samples['imgguard_lost_leases_total'] == samples['imgguard_store_errors_total'] == 0
    assert (samples['imgguard_store_up'], samples['imgguard_images_in_error']) == (1, 0)


def test_a_success(metered: Metered) -> None:
    assert metered.images.upload(metered.images.created(KEEP), DATA).status_int == 204
    samples = metered.samples()
    assert samples.nonzero(ATTEMPTS) == {'upload succeeded': 1}
    assert samples.nonzero(RECEIVED) == {'upload': len(DATA)}
    assert samples.nonzero(FAILURES) == {}
    assert samples['imgguard_images_in_error'] == 0


def test_a_cut_upload_and_its_retry(metered: Metered) -> None:
    image_id = metered.images.in_error()
    samples = metered.samples()
    assert samples.nonzero(ATTEMPTS) == {'upload failed': 1}
    assert samples.nonzero(FAILURES) == {'client_disconnected': 1}
    assert samples.nonzero(RECEIVED) == {'upload': 300}
    assert samples['imgguard_images_in_error'] == 1
    with metered.images.uploading(image_id):
        assert metered.samples()['imgguard_images_in_error'] == 0, 'it is not shown in error'
    samples = metered.samples()
    assert samples.nonzero(ATTEMPTS) == {'upload failed': 1, 'upload succeeded': 1}
    assert samples['imgguard_images_in_error'] == 0


def test_an_import_that_fails(metered: Metered, override_glance: OverrideGlance) -> None:
    override_glance('allowed_hosts', ['127.0.0.1'], 'import_filtering_opts')
    image_id = metered.images.created(KEEP)
    answer = metered.images.json('POST', f'/v2/images/{image_id}/import', {
        'method': {'name': 'web-download', 'uri': f'http://127.0.0.1:{unused_port()}/nothing'}})
    assert answer.status_int == 202
    eventually(lambda: metered.samples().nonzero(ATTEMPTS), 'the end of the import')
    samples = metered.samples()
    assert samples.nonzero(ATTEMPTS) == {'import failed': 1}
    assert samples.nonzero(FAILURES) == {'source_unreachable': 1}


def test_a_lost_worker(metered: Metered) -> None:
    """Whoever looks first settles it, and it is counted there, once."""
    image_id = metered.images.created(KEEP)
    image = metered.images.show(image_id)
    claim = metered.store.begin(image_id, image['created_at'], image['owner'], ELSEWHERE)
    assert isinstance(claim, Claim)
    metered.silent(claim, 100)
    assert metered.samples().nonzero(ATTEMPTS) == {}
    for _ in range(2):
        assert metered.images.show(image_id)['status'] == 'error'
    samples = metered.samples()
    assert samples.nonzero(ATTEMPTS) == {'upload lost': 1}
    assert samples.nonzero(FAILURES) == {'worker_lost': 1}
    assert samples['imgguard_lost_leases_total'] == samples['imgguard_images_in_error'] == 1


def test_a_declaration(metered: Metered) -> None:
    image_id = metered.images.created(KEEP)
    metered.images.patch(image_id, {'op': 'replace', 'path': '/status', 'value': 'error'})
    samples = metered.samples()
    assert samples.nonzero(ATTEMPTS) == {'declare failed': 1}
    assert samples.nonzero(FAILURES) == {'declared': 1}
    assert samples['imgguard_images_in_error'] == 1


def test_what_is_refused_at_the_door_is_no_attempt(metered: Metered) -> None:
    image_id = metered.images.created(KEEP)
    with metered.images.uploading(image_id):
        assert metered.images.upload(image_id, DATA).status_int == 409
    assert metered.samples().nonzero(ATTEMPTS) == {'upload succeeded': 1}


def test_an_outage_of_the_store(metered: Metered) -> None:
    """The end is counted when it is stored, once, and the exposition goes on meanwhile."""
    image_id = metered.images.created(KEEP)
    with metered.images.uploading(image_id) as under_way:
        metered.rename_table('imgguard_images', 'away')
    assert under_way.answer is not None and under_way.answer.headers[KEPT] == 'unavailable'
    samples = metered.samples()
    assert samples.nonzero(ATTEMPTS) == {}
    assert samples['imgguard_store_errors_total'] >= 1
    assert samples['imgguard_store_up'] == 0
    assert 'imgguard_images_in_error' not in samples
    metered.rename_table('away', 'imgguard_images')
    eventually(lambda: metered.samples().nonzero(ATTEMPTS), 'the end is stored')
    assert metered.samples().nonzero(ATTEMPTS) == {'upload succeeded': 1}
    assert metered.samples()['imgguard_store_up'] == 1


def test_the_time_the_guard_adds(metered: Metered) -> None:
    """Of requests that are ours; that of Glance is left out, be it as long as it may."""
    image_id = metered.images.created(KEEP)
    with metered.images.uploading(image_id):
        for _ in range(3):
            metered.images.show(image_id)
    metered.application.get('/healthcheck')
    metered.images.request('GET', '/v2/schemas/member')
    samples = metered.samples()
    assert samples.nonzero('imgguard_added_seconds_count') == {'create': 1, 'upload': 1, 'show': 3}
    bounds = ['+Inf' if bound == float('inf') else str(bound) for bound in BUCKETS]
    told = [samples['imgguard_added_seconds_bucket', {'action': 'show', 'le': bound}] for bound in bounds
            if f'show {bound}' in samples.nonzero('imgguard_added_seconds_bucket')]
    assert told == sorted(told) and told[-1] == 3
    assert samples['imgguard_added_seconds_sum', {'action': 'show'}] > 0


class Told:
    """A recorder that remembers the times."""

    def __init__(self) -> None:
        self.seconds: list[tuple[str, float]] = []

    def ended(self, end: End) -> None:
        """Not of interest."""

    def store_failed(self) -> None:
        """Not of interest."""

    def took(self, action: str, seconds: float) -> None:
        """Remember it."""
        self.seconds.append((action, seconds))


class Scene:
    """A handler that takes 3 seconds by its clock before it asks Glance, which takes 50 and may fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self.now = 1000.0
        self._error = error
        self.counts = counts.Counts()
        stopwatch = Stopwatch(self.counts, lambda: self.now)
        self._glance = stopwatch.below(self._take)
        self._guard = image_guard(
            self._take, {2: {Action.SHOW: self._handle}}, recognise,
            lambda environ: Caller(None, None, False, None, None), lambda: None, None, stopwatch)

    def request(self) -> Environ:
        """Send one; returns its environ as it is then."""
        environ: Environ = {'REQUEST_METHOD': 'GET', 'PATH_INFO': '/v2/images/image'}
        self._guard(environ, _start_response)
        return environ

    def _handle(self, environ: Environ, start_response: StartResponse, operation: Operation,
                by: Caller) -> Iterable[bytes]:
        self.now += 3
        return self._glance(dict(environ), start_response)

    def _take(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self.now += 50
        if self._error is not None:
            raise self._error
        return []


def _start_response(*_: object) -> Callable[[bytes], object]:
    raise AssertionError('nobody answers here')


def test_glances_own_time_is_not_the_guards() -> None:
    scene, told = Scene(), Told()
    assert set(scene.request()) == {'REQUEST_METHOD', 'PATH_INFO'}, 'nobody counts'
    scene.counts.record_with(told)
    scene.request()
    assert told.seconds == [('show', 3)]


def test_the_time_of_a_request_that_breaks_counts_too() -> None:
    scene, told = Scene(RuntimeError('Glance is broken')), Told()
    scene.counts.record_with(told)
    with pytest.raises(RuntimeError):
        scene.request()
    assert told.seconds == [('show', 3)]


def test_nothing_a_caller_sends_becomes_a_label(metered: Metered) -> None:
    names = metered.samples().names()
    image_id = metered.images.created({**KEEP, 'X-Openstack-Request-Id': 'req-mine'}, name='mine', mine='mine')
    metered.images.upload_cut(image_id, headers={'X-Openstack-Request-Id': 'req-mine'})
    metered.images.request('GET', '/v2/images/mine%0amine')
    metered.images.request('GET', '/v2/images?status=error&mine=mine')
    metered.images.json('POST', f'/v2/images/{image_id}/import', {'method': {'name': 'mine'}})
    metered.images.patch(image_id, {'op': 'replace', 'path': '/status', 'value': 'error'},
                         {'op': 'add', 'path': '/os_glance_image_error', 'value': 'mine'})
    text = metered.application.get('/metrics').text
    assert 'mine' not in text and image_id not in text
    assert {name for name in Samples(text).names() - names} == {
        name for name in Samples(text).names() if name[0].startswith('imgguard_added_seconds')}


def test_a_keep_section_counts_together_with_the_other(metered: Metered) -> None:
    other = counts.of(identity(metered.connection.replace('sqlite:', 'sqlite+pysqlite:') + '?timeout=60'))
    assert other.recorder is not None
    other.ended(End(Kind.UPLOAD, State.SUCCEEDED, None, 5))
    assert metered.samples().nonzero(RECEIVED) == {'upload': 5}


def test_only_the_port_of_its_own_answers(in_process_glance: InProcessGlance, tmp_path: Path) -> None:
    metered = Metered(in_process_glance, tmp_path, {'port': '9293'})
    ask = metered.application.get
    assert ask('/metrics', extra_environ={'SERVER_PORT': '9293'}).status_int == 200
    tenants = {'SERVER_PORT': '9292', 'HTTP_HOST': '127.0.0.1:9293', 'HTTP_X_FORWARDED_PORT': '9293'}
    assert 'imgguard' not in ask('/metrics', extra_environ=tenants, status=404).text


BAD_OPTIONS = (
    ({'multiprocess_directory': ''}, "'' is not allowed; give an absolute path"),
    ({'multiprocess_directory': 'metrics'}, "'metrics' is not allowed; give an absolute path"),
    ({'multiprocess_directory': '/dev/null/metrics'}, '/dev/null/metrics cannot be used: Not a directory'),
    ({'multiproces_directory': '/tmp'}, "did you mean 'multiprocess_directory'?"),
    ({'keep_default': 'always'}, "unknown option 'keep_default'"),
    ({'port': '0'}, "'0' is not allowed; give a whole number from 1 to 65535"),
    ({'port': 'http'}, "'http' is not allowed; give a whole number from 1 to 65535"),
    ({'connection': 'sqlite:///imgguard.db'}, 'is not absolute'),
)


@pytest.mark.parametrize(('options', 'words'), BAD_OPTIONS)
def test_a_bad_option_stops_the_load(options: dict[str, str], words: str, tmp_path: Path) -> None:
    given = {'multiprocess_directory': f'{tmp_path}/metrics', **options}
    with pytest.raises(ConfigurationError) as told:
        metrics.app_factory({'__file__': '/etc/glance/paste.ini'}, **given)
    assert words in str(told.value) and "imgguard's metrics in /etc/glance/paste.ini" in str(told.value)


def test_the_directory_must_be_named() -> None:
    with pytest.raises(ConfigurationError, match="lacks the option 'multiprocess_directory'"):
        metrics.app_factory({})


def test_an_option_in_default_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match='the option multiprocess_directory stands in .DEFAULT.'):
        metrics.app_factory({'multiprocess_directory': f'{tmp_path}/metrics'})


WITHOUT_THE_EXTRA = '''
import sys
sys.modules['prometheus_client'] = None
from imgguard.metrics import app_factory
app_factory({'__file__': 'paste.ini'}, connection='sqlite:////nowhere/imgguard.db', multiprocess_directory=sys.argv[1])
'''
WITHOUT_THE_APPLICATION = '''
import sys
from imgguard.factory import filter_factory
filter_factory({}, connection=f'sqlite:///{sys.argv[1]}/imgguard.db')(print)
print([name for name in sys.modules if 'prometheus' in name or name == 'imgguard.metrics'])
'''


def test_a_missing_extra_is_told_by_its_name(tmp_path: Path) -> None:
    ran = _python(WITHOUT_THE_EXTRA, tmp_path)
    assert ran.returncode != 0
    assert ran.stderr.splitlines()[-1].endswith("install it with pip install 'imgguard[metrics]'"), ran.stderr
    assert "imgguard's metrics in paste.ini needs the extra \"metrics\"" in ran.stderr


def test_without_the_application_nothing_is_imported(tmp_path: Path) -> None:
    assert _python(WITHOUT_THE_APPLICATION, tmp_path).stdout == '[]\n'


def _python(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, '-c', program, str(folder)], capture_output=True, text=True, timeout=120,
                          check=False)


COUNT_AND_DIE = '''
import os, signal, sys
from pathlib import Path
import prometheus_client
from imgguard.attempts import End, Kind, State
from imgguard.prometheus import FileRecorder
recorder = FileRecorder(Path(sys.argv[1]))
def count(times):
    for _ in range(times):
        recorder.ended(End(Kind.UPLOAD, State.SUCCEEDED, None, 10))
count(1)
children = []
for times in (2, 3, 4):
    child = os.fork()
    if child == 0:
        count(times)
        os.kill(os.getpid(), signal.SIGKILL)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
count(1)
os.kill(os.getpid(), signal.SIGKILL)
'''


def test_processes_that_are_forked_and_killed_lose_nothing(metered: Metered, tmp_path: Path) -> None:
    """Not even where the library is loaded before anybody knows of a directory."""
    directory = tmp_path / 'metrics'
    for run in range(1, 4):
        _python(COUNT_AND_DIE, directory)
        assert metered.samples().nonzero(ATTEMPTS) == {'upload succeeded': run * 11}
    assert metered.samples().nonzero(RECEIVED) == {'upload': 330}
    assert len(list(directory.glob('counter_*'))) <= 5, 'those who come later go on where the dead have stopped'


def test_whoever_lives_has_files_of_its_own(tmp_path: Path) -> None:
    """Two that wrote to one would overwrite each other's numbers."""
    recorders = [FileRecorder(tmp_path), FileRecorder(tmp_path)]
    for recorder in recorders:
        recorder.store_failed()
    assert sorted(path.name for path in tmp_path.glob('counter_*')) == ['counter_0.db', 'counter_1.db']


def test_a_directory_that_cannot_be_written_disturbs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = tmp_path / 'metrics'
    recorder = FileRecorder(directory)
    for _ in range(3):
        recorder.store_failed()
    assert [record.message for record in caplog.records] == [f'metrics cannot be written to {directory}']
    directory.mkdir()
    recorder.store_failed()
    assert (directory / 'counter_0.db').exists()


@contextmanager
def full_disk() -> Iterator[None]:
    """Within the block no file can grow to more than a page."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_files_that_find_no_room_spoil_no_scrape(metered: Metered, tmp_path: Path) -> None:
    """Whoever is asked reads the files of all, also while another process makes its own."""
    metered.images.in_error()
    with full_disk():
        FileRecorder(tmp_path / 'metrics').store_failed()
    assert metered.samples().nonzero(FAILURES) == {'client_disconnected': 1}
    late = FileRecorder(tmp_path / 'metrics')
    late.store_failed()
    assert metered.samples()['imgguard_store_errors_total'] == 1
