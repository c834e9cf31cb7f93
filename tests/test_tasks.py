"""The table that says what became of an import, and what is taken from Glance's log of it; one row, one case."""

import logging
import urllib.error

import pytest

from imgguard import glance_log
from imgguard.attempts import Kind
from imgguard.glance_log import Cause
from imgguard.outcome import Verdict
from imgguard.tasks import LAST_WORD_SECONDS, Seen, Task, judge

STALL = 3600.0
ID = '63350db4-1af5-4947-ba2e-5d1cb0df57e6'
CAUSE = Cause('HTTPError', 'HTTP Error 404: Not Found')
GLANCE_SAYS = 'Task failed due to Internal Error'


def task(status: str, *stores: str, message: str = '') -> Task:
    return Task(ID, status, message, stores)


# While Glance works there is no verdict, whatever else it says: its writes come one after the other.
WORKS = {
    'accepted': (Kind.IMPORT, Seen('queued', task=task('pending', 'fs'))),
    'begun': (Kind.IMPORT, Seen('queued', task=task('processing', 'fs'))),
    'fetching': (Kind.IMPORT, Seen('importing', task=task('processing', 'fs'))),
    'put back, but not yet done': (Kind.IMPORT, Seen('queued', ('fs',), task=task('processing', 'fs'))),
    'active, other stores to come': (Kind.IMPORT, Seen('active', task=task('processing', 'fs', 'fs2'))),
    'staged': (Kind.IMPORT, Seen('uploading', staged=10, task=task('processing', 'fs'))),
    'task unknown': (Kind.IMPORT, Seen('importing')),
    'copy': (Kind.COPY, Seen('active', ('fs2',), task=task('processing', 'fs2'))),
    'copy, task unknown': (Kind.COPY, Seen('active')),
}


@pytest.mark.parametrize('name', WORKS)
def test_no_verdict_while_glance_works(name: str) -> None:
    kind, seen = WORKS[name]
    assert judge(kind, seen, [CAUSE], STALL - 1, STALL) is None


def test_one_that_does_not_move_has_failed() -> None:
    for status in ('queued', 'importing', 'uploading'):
        result = judge(Kind.IMPORT, Seen(status, task=task('processing', 'fs')), [], STALL, STALL)
        assert result is not None and result.failure is not None
        assert (result.verdict, result.failure.code) == (Verdict.FAILED, 'import_failed')
        assert result.failure.text == 'The import made no progress for 3600 seconds.'


def test_an_old_glance_that_kills_an_image_has_its_last_word() -> None:
    assert judge(Kind.IMPORT, Seen('killed'), [], LAST_WORD_SECONDS - 0.1, STALL) is None
    result = judge(Kind.IMPORT, Seen('killed'), [], LAST_WORD_SECONDS, STALL)
    assert result is not None and result.failure is not None
    assert (result.verdict, result.failure.code) == (Verdict.FAILED, 'import_failed')


SUCCESSES = {
    'active': (Kind.IMPORT, Seen('active', task=task('success', 'fs')), ''),
    'deactivated meanwhile': (Kind.IMPORT, Seen('deactivated', task=task('success', 'fs')), ''),
    'of an earlier import': (Kind.IMPORT, Seen('active', ('fs9',), task=task('success', 'fs')), ''),
    'one store failed': (Kind.IMPORT, Seen('active', ('fs2',), task=task('success', 'fs', 'fs2')),
                         'The data could not be stored in the store fs2: No space left'),
    'task failed all the same': (Kind.LOCATION, Seen('active', task=task('failure', message=GLANCE_SAYS)),
                                 'No space left'),
    'active, task unknown': (Kind.LOCATION, Seen('active'), ''),
    'copied': (Kind.COPY, Seen('active', task=task('success', 'fs2')), ''),
    'copied to some': (Kind.COPY, Seen('active', ('fs3',), task=task('success', 'fs2', 'fs3')),
                       'The data could not be stored in the store fs3: No space left'),
}


@pytest.mark.parametrize('name', SUCCESSES)
def test_data_that_arrived(name: str) -> None:
    kind, seen, remark = SUCCESSES[name]
    result = judge(kind, seen, [Cause('OSError', 'No space left')], 0, STALL)
    assert result is not None and result.verdict is Verdict.SUCCEEDED
    assert (result.failure.text if result.failure else '') == remark
    assert result.failure is None or result.failure.code == ''


LOST = Seen('queued', ('fs',), task=task('failure', 'fs', message=GLANCE_SAYS))
CAUSES = [
    ('HTTPError', 'HTTP Error 404: Not Found', 'source_unreachable'),
    ('ConnectionRefusedError', '[Errno 111] Connection refused', 'source_unreachable'),
    ('Invalid', 'Size mismatch: expected 9 bytes, got 5 bytes', 'source_unreachable'),
    ('ImportTaskError', 'downloaded data size 5 is different from expected 9', 'source_unreachable'),
    ('ImageSizeLimitExceeded', 'The provided image is too large.', 'size_limit_exceeded'),
    ('StorageQuotaFull', 'The size of the data 50000 will exceed the limit.', 'quota_exceeded'),
    ('LimitExceeded', 'Resource image_stage_total is over limit', 'quota_exceeded'),
    ('StorageFull', 'There is not enough disk space on the image storage media.', 'storage_full'),
    ('StorageWriteDenied', 'Permission to write image storage media denied.', 'storage_unavailable'),
    ('FileNotFoundError', "[Errno 2] No such file or directory: '(path)'", 'storage_unavailable'),
    ('OSError', "[Errno 30] Read-only file system: '(path)'", 'storage_unavailable'),
    ('InvalidImageData', 'Image disk_format qcow2 does not match stream data raw', 'format_rejected'),
    ('ImageFormatError', 'Image failed safety checks', 'format_rejected'),
    ('ImportTaskError', 'Image size mismatch. Expected 9 but got 5', 'size_mismatch'),
    ('InvalidParameterValue', 'os_hash_value: (00) not matched', 'digest_mismatch'),
    ('SignatureVerificationError', 'Signature verification failed', 'signature_rejected'),
    ('KeyError', 'anything else', 'import_failed'),
]


@pytest.mark.parametrize(('kind', 'words', 'code'), CAUSES, ids=lambda each: str(each)[:40])
def test_what_the_log_tells(kind: str, words: str, code: str) -> None:
    """The first cause counts; those after it are its consequences."""
    result = judge(Kind.IMPORT, LOST, [Cause(kind, words), Cause('WrappedFailure', 'more of it')], 0, STALL)
    assert result is not None and result.failure is not None
    assert (result.verdict, result.failure.code) == (Verdict.FAILED, code)
    assert result.failure.text.endswith(f': {words}')


@pytest.mark.parametrize('kind', ['ConnectionRefusedError', 'ConnectTimeout', 'ProtocolError', 'TimeoutError'])
def test_a_connection_that_was_lost_while_the_data_was_stored_is_the_stores(kind: str) -> None:
    result = judge(Kind.IMPORT, LOST, [Cause(kind, 'Connection lost', storing=True)], 0, STALL)
    assert result is not None and result.failure is not None
    assert (result.failure.code, result.failure.text) == (
        'storage_unavailable', 'The data could not be stored in the store fs: Connection lost')


@pytest.mark.parametrize(('message', 'words'), [
    (GLANCE_SAYS, 'The import did not finish.'), ('', 'The import did not finish.'),
    ('Copied 7 MiB', 'The import did not finish.'), ('Image quota is used up', 'Image quota is used up')])
def test_without_a_log_the_task_speaks_where_it_says_something(message: str, words: str) -> None:
    result = judge(Kind.IMPORT, Seen('queued', task=task('failure', 'fs', message=message)), [], 0, STALL)
    assert result is not None and result.failure is not None
    assert (result.failure.code, result.failure.text) == ('import_failed', words)


def test_success_without_data_is_none() -> None:
    result = judge(Kind.IMPORT, Seen('queued', task=task('success', 'fs')), [], 0, STALL)
    assert result is not None and result.verdict is Verdict.FAILED


@pytest.mark.parametrize('status', [None, 'deleted', 'pending_delete'])
def test_an_image_that_is_gone(status: str | None) -> None:
    result = judge(Kind.COPY, Seen(status, task=task('processing', 'fs')), [], 0, STALL)
    assert result is not None and result.failure is not None
    assert result.failure.text == 'The image was deleted while its data was on the way.'


# The log

@pytest.fixture
def log() -> logging.Logger:
    with glance_log.reasons():
        pass
    glance_log.forget(ID)
    return logging.getLogger('glance.async_.taskflow_executor')


def test_causes_are_kept_by_task(log: logging.Logger) -> None:
    """From what carries the id of the task, or a name that ends in it; fit to be shown, and each once."""
    error = urllib.error.URLError(ConnectionRefusedError(111, 'Connection refused'))
    log.error('Task %(task_id)s failed with exception %(error)s', {'task_id': ID, 'error': error})
    try:
        raise OSError(30, 'Read-only file system', '/var/lib/glance/images/1')
    except OSError:
        log.warning("Task '%s' (%s) failed", f'api_image_import-fs-ImportToStore-{ID}', 'uuid', exc_info=True)
    for _ in range(2):
        log.error('Failed to execute task %(task_id)s: %(exc)s', {
            'task_id': ID, 'exc': f'Task {ID} failed because downloaded data size 5 is different'})
    log.error('Task %(task_id)s is well', {'task_id': ID})
    assert glance_log.causes(ID) == (
        Cause('ConnectionRefusedError', '[Errno 111] Connection refused'),
        Cause('OSError', "[Errno 30] Read-only file system: '(path)'", storing=True),
        Cause('RuntimeError', 'downloaded data size 5 is different'))
    glance_log.forget(ID)
    assert glance_log.causes(ID) == ()


def test_what_stores_the_data_tells_of_it_under_its_own_name(log: logging.Logger) -> None:
    logging.getLogger('glance.common.scripts.image_import.main').warning(
        'Task %(task_id)s failed with exception %(error)s',
        {'task_id': ID, 'error': BrokenPipeError(32, 'Broken pipe')})
    assert glance_log.causes(ID) == (Cause('BrokenPipeError', '[Errno 32] Broken pipe', storing=True),)


def test_the_last_address_tells_what_giving_up_does_not(log: logging.Logger) -> None:
    """``glance/common/scripts/utils.py`` logs each address without the task and then gives up without a reason."""
    log.warning('Failed to import image %(url)s using IP %(ip)s: %(exc)s', {
        'url': 'http://source/', 'ip': '192.0.2.1', 'exc': ConnectionResetError(104, 'Connection reset by peer')})
    log.error('Task %(task_id)s failed with exception %(error)s', {
        'task_id': ID, 'error': RuntimeError('Exhausted allowed addresses when importing image.')})
    assert glance_log.causes(ID) == (Cause('ConnectionResetError', '[Errno 104] Connection reset by peer'),)


def test_a_bounded_number_of_tasks_and_causes_is_kept(log: logging.Logger) -> None:
    for number in range(40):
        log.error('Task %(task_id)s: %(exc)s', {'task_id': ID, 'exc': RuntimeError(f'number {number}')})
    assert [cause.text for cause in glance_log.causes(ID)] == [f'number {number}' for number in range(16)]
    for number in range(1000):
        log.error('Task %(task_id)s: %(exc)s', {'task_id': f'task-{number}', 'exc': RuntimeError('failed')})
    assert glance_log.causes(ID) == () and glance_log.causes('task-999') != ()
