"""What a border lets through, and what it tells."""

import logging

import pytest

from imgguard.border import Border

LOG = logging.getLogger(__name__)


def test_what_is_raised_within_is_told_with_its_traceback_and_the_work_goes_on(
        caplog: pytest.LogCaptureFixture) -> None:
    done = []
    with Border(LOG, 'it is not counted', KeyError):
        done.append('begun')
        raise ValueError('a mistake')
    assert done == ['begun']
    [record] = caplog.records
    assert (record.levelname, record.getMessage()) == ('ERROR', 'it is not counted')
    assert record.exc_info is not None and str(record.exc_info[1]) == 'a mistake'


def test_what_may_come_at_any_time_is_told_in_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Border(LOG, 'it is not counted now', LookupError, level=logging.INFO):
        raise KeyError('away')
    [record] = caplog.records
    assert (record.levelname, record.getMessage()) == ('INFO', "it is not counted now: 'away'")
    assert record.exc_info is None


@pytest.mark.parametrize('stopped', [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_stops_a_worker_is_let_through(stopped: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(stopped), Border(LOG, 'it is not counted'):
        raise stopped
    assert caplog.records == []


def test_nothing_is_told_of_what_went_well(caplog: pytest.LogCaptureFixture) -> None:
    with Border(LOG, 'it is not counted'):
        pass
    assert caplog.records == []
