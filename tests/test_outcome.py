"""What each answer of Glance 33 to an upload says about the image: one row per rule.

The explanations are Glance's own, as its real answers carried them.
"""

from typing import Any

import pytest

from imgguard import codes
from imgguard.attempts import Failure
from imgguard.body import Broken
from imgguard.outcome import Answer, Outcome, Verdict, classify, interrupted, looked

GENERIC = 'The server has either erred or is incapable of performing the requested operation.'


def failed(code: str, text: str) -> Outcome:
    return Outcome(Verdict.FAILED, Failure(code, text))


# Answers that are no failure of the attempt

@pytest.mark.parametrize('status', [200, 204, 299])
@pytest.mark.parametrize('more', [
    {},
    {'received': 5, 'expected': 5},
    {'reason': 'some notification could not be sent'},
    {'broken': Broken.DISCONNECTED},
    {'refusal': Failure(codes.SIZE_MISMATCH, 'Too long.')},
])
def test_success_is_success_whatever_else_is_known(status: int, more: dict[str, Any]) -> None:
    """The image is active then, and never to be shown in error."""
    assert classify(Answer(status, **more)) == Outcome(Verdict.SUCCEEDED)


@pytest.mark.parametrize(('status', 'explanation'), [
    (403, 'You are not authorized to complete upload_image action.'),
    (404, 'No image found with ID 99d0061f-9e7a-4d4c-b569-a33c36f72204'),
    (405, 'The method POST is not allowed for this resource.'),
    (409, 'Image status transition from active to saving is not allowed'),
    (100, ''), (199, ''), (300, 'Multiple choices'), (399, ''),
])
def test_answers_at_the_door_say_nothing_about_the_image(status: int, explanation: str) -> None:
    assert classify(Answer(status, explanation)) == Outcome(Verdict.SAYS_NOTHING)


@pytest.mark.parametrize('status', [403, 404, 405, 409])
def test_after_data_was_read_they_are_not_at_the_door(status: int) -> None:
    assert classify(Answer(status, 'No.', received=5)) == Outcome(Verdict.LOOK, Failure('backend_error', 'No.'))


@pytest.mark.parametrize(('answer', 'status', 'fails'), [
    # Gone, and the image waits: the upload has failed, whoever put it back.
    (Answer(410), 'queued', True),
    # It hangs: the store did not find what it was to write to, and Glance does not put it back.
    (Answer(410, received=5), 'saving', True),
    (Answer(401), 'saving', True),
    (Answer(401), 'uploading', True),
    (Answer(409, received=5), 'saving', True),
    (Answer(404, received=5), 'queued', True),
    # Another upload was quicker, and is still running or done.
    (Answer(410), 'saving', False),
    (Answer(410, received=5), 'active', False),
    # The token was refused at the door.
    (Answer(401), 'queued', False),
    # Deleted meanwhile.
    (Answer(410, received=5), None, False),
    (Answer(404, received=5), None, False),
])
def test_glance_was_asked(answer: Answer, status: str | None, fails: bool) -> None:
    failure = Failure('backend_error', 'Some doubt.')
    expected = Outcome(Verdict.FAILED, failure) if fails else Outcome(Verdict.SAYS_NOTHING)
    assert looked(answer, failure, status) == expected


# What the guard knows of the body goes before what Glance made of it

@pytest.mark.parametrize('status', [400, 401, 403, 409, 410, 413, 500])
def test_a_refusal_of_the_guard_comes_first(status: int) -> None:
    refusal = Failure(codes.DIGEST_MISMATCH, 'Not those bytes.')
    answer = Answer(status, GENERIC, 'something', 7, 9, Broken.MALFORMED, 'bad chunk', refusal)
    assert classify(answer) == Outcome(Verdict.FAILED, refusal)


@pytest.mark.parametrize(('how', 'expected', 'said', 'code', 'text'), [
    (Broken.DISCONNECTED, 9, '', 'client_disconnected',
     'The connection to the client was lost during the upload: 7 of 9 bytes had arrived.'),
    (Broken.DISCONNECTED, None, '', 'client_disconnected',
     'The connection to the client was lost during the upload: 7 bytes had arrived.'),
    (Broken.DISCONNECTED, None, 'No more data after: None', 'client_disconnected',
     'The connection to the client was lost during the upload: 7 bytes had arrived.'),
    (Broken.MALFORMED, None, '', 'bad_request', 'The body of the upload was malformed: 7 bytes had arrived.'),
    (Broken.MALFORMED, None, "Bad chunked transfer size: b'zz'", 'bad_request',
     "The body of the upload was malformed: 7 bytes had arrived (Bad chunked transfer size: b'zz')."),
])
@pytest.mark.parametrize('status', [400, 401, 410, 500, 503])
def test_then_a_body_that_broke(
        status: int, how: Broken, expected: int | None, said: str, code: str, text: str) -> None:
    assert classify(Answer(status, GENERIC, 'x', 7, expected, how, said)) == failed(code, text)


# Refusals of Glance that tell their reason

@pytest.mark.parametrize(('status', 'explanation', 'code'), [
    (400, 'Signature verification failed for image X: Invalid signature key type: UNKNOWN', 'signature_rejected'),
    (400, 'Size mismatch: expected 9000 bytes, got 5000 bytes', 'size_mismatch'),
    (400, 'Size exceeds: expected 100 bytes, got 5000 bytes', 'size_mismatch'),
    (400, 'Properties disk_format, container_format must be set prior to saving data.', 'bad_request'),
    (400, 'Store for identifier nope not found', 'bad_request'),
    (400, 'Invalid or missing image size in request headers.', 'bad_request'),
    (409, 'The image X has data on staging', 'backend_error'),
    (410, 'Error in store configuration. Adding images to store is disabled.', 'storage_unavailable'),
    (413, 'Image exceeds the storage quota: The size of the data 50000 will exceed the limit. 20480 bytes remaining.',
     'quota_exceeded'),
    (413, 'Image storage media is full: There is not enough disk space on the image storage media.', 'storage_full'),
    (413, 'The incoming image is too large: The provided image is too large.', 'size_limit_exceeded'),
    (413, 'Resource image_size_total is over limit of 10 due to current usage 9 and delta 2', 'quota_exceeded'),
    (415, 'Invalid content type text/plain', 'bad_request'),
    (415, 'Image disk_format qcow2 does not match stream data raw', 'format_rejected'),
    (415, 'Image failed safety checks', 'format_rejected'),
    (422, 'Unprocessable.', 'bad_request'),
    (499, 'Something new.', 'bad_request'),
    (503, 'Insufficient permissions on image storage media: Permission to write image storage media denied.',
     'storage_unavailable'),
])
def test_an_explained_refusal(status: int, explanation: str, code: str) -> None:
    assert classify(Answer(status, explanation)) == failed(code, explanation)
    assert classify(Answer(status, explanation, received=5, expected=9)) == failed(code, explanation)


def test_what_webob_says_of_every_415_is_left_out() -> None:
    said = 'The request media type application/octet-stream is not supported by this server. '
    assert classify(Answer(415, said + 'Image failed safety checks')) == failed(
        'format_rejected', 'Image failed safety checks')
    assert classify(Answer(415, said)) == failed('format_rejected', codes.default_text('format_rejected'))


@pytest.mark.parametrize('received', [0, 7])
def test_any_other_400_is_a_store_that_raised_an_error(received: int) -> None:
    text = f'Glance failed with status 400 during the upload: {received} of 9 bytes had arrived.'
    said = text + ' Glance answered: Invalid endpoint: rgw'
    assert classify(Answer(400, 'Invalid endpoint: rgw', received=received, expected=9)) == failed(
        'backend_error', said)
    assert classify(Answer(400, received=received, expected=9)) == failed('backend_error', text)


def test_a_400_where_glance_fetches_the_data_is_a_refusal() -> None:
    assert classify(Answer(400, 'No uri.', fetches=True)) == failed('bad_request', 'No uri.')


def test_a_500_for_a_request_that_is_not_understood_is_the_requests_fault() -> None:
    result = classify(Answer(500, GENERIC, 'list indices must be integers', fetches=True, understood=False))
    assert result == failed(
        'bad_request', 'The request does not name an import method as it should: {"method": {"name": NAME}}.')


@pytest.mark.parametrize(('status', 'code'), [
    (413, 'quota_exceeded'), (415, 'format_rejected'), (418, 'bad_request'),
    (503, 'storage_unavailable')])
def test_a_refusal_without_words_gets_ours(status: int, code: str) -> None:
    assert classify(Answer(status)) == failed(code, codes.default_text(code))


@pytest.mark.parametrize('words', ['Signature verification failed', 'Size mismatch', 'storage quota', 'too large'])
def test_words_count_only_under_their_own_status(words: str) -> None:
    assert classify(Answer(422, words)) == failed('bad_request', words)


def test_a_token_that_expired_while_data_was_stored() -> None:
    assert classify(Answer(401, 'Expired.', received=1)) == failed('credentials_expired', 'Expired.')
    assert classify(Answer(401, received=1)) == failed(
        'credentials_expired', 'The credentials expired before all data was stored.')


def test_a_token_that_is_refused_before_data_was_read_leaves_a_doubt() -> None:
    assert classify(Answer(401, 'Expired.')) == Outcome(Verdict.LOOK, Failure('credentials_expired', 'Expired.'))


def test_gone_is_ambiguous() -> None:
    """Another upload may have won, somebody may have deleted the image, or the upload failed."""
    text = 'Image X could not be found after upload. The image may have been deleted during the upload.'
    assert classify(Answer(410, text)) == Outcome(Verdict.LOOK, Failure('backend_error', text))
    assert classify(Answer(410)) == Outcome(
        Verdict.LOOK, Failure('backend_error', codes.default_text('backend_error')))


# Failures that Glance answers without a reason

@pytest.mark.parametrize(('reason', 'code'), [
    ('checksum of uploaded data is different from current value set on the image.', 'digest_mismatch'),
    ("[Errno 30] Read-only file system: '(path)'", 'storage_unavailable'),
    ("[Errno 2] No such file or directory: '(path)'", 'storage_unavailable'),
    ("[Errno 20] Not a directory: '(path)'", 'storage_unavailable'),
    ('[Errno 28] No space left on device', 'storage_full'),
    ('something else', 'backend_error'),
])
@pytest.mark.parametrize('status', [500, 502, 599])
def test_the_cause_that_glance_logged(status: int, reason: str, code: str) -> None:
    text = f'Glance failed with status {status} during the upload: 7 of 9 bytes had arrived. Glance logged: {reason}'
    assert classify(Answer(status, GENERIC, reason, 7, 9)) == failed(code, text)


def test_no_cause_was_logged() -> None:
    assert classify(Answer(500, GENERIC, received=7)) == failed(
        'backend_error', 'Glance failed with status 500 during the upload: 7 bytes had arrived.')


def test_a_worker_was_told_to_stop() -> None:
    assert interrupted(Answer(0, received=7, expected=9)) == Failure(
        'worker_lost', 'The process that ran the upload was stopped: 7 of 9 bytes had arrived.')
    assert interrupted(Answer(0)) == Failure(
        'worker_lost', 'The process that ran the upload was stopped: 0 bytes had arrived.')


@pytest.mark.parametrize('status', range(400, 600))
def test_each_verdict_names_a_known_code(status: int) -> None:
    outcome = classify(Answer(status, received=1))
    assert outcome.failure is not None and outcome.failure.code in codes.CODES
    assert outcome.failure.text.isprintable() and outcome.failure.text
