"""``etc/imgguard.conf.sample`` says what the options say; that of notifications can be used."""

import re
from pathlib import Path

from oslo_config import generator

from imgguard.notify import Publisher
from imgguard.settings import resolve
from imgguard.store import Store

ROOT = Path(__file__).parent.parent
GENERATOR = ROOT / 'etc' / 'oslo-config-generator' / 'imgguard.conf'
NOTIFICATIONS = ROOT / 'etc' / 'imgguard-notifications.conf.sample'
SAMPLE = ROOT / 'etc' / 'imgguard.conf.sample'


def test_the_sample_is_what_the_options_generate(tmp_path: Path) -> None:
    fresh = tmp_path / 'imgguard.conf.sample'
    generator.main(['--config-file', str(GENERATOR), '--output-file', str(fresh)])
    assert fresh.read_text() == SAMPLE.read_text(), (
        'the sample is stale; run in the top directory of an installed tree: '
        f'oslo-config-generator --config-file {GENERATOR.relative_to(ROOT)}')


def test_the_sample_can_be_used_as_it_is() -> None:
    assert resolve({'oslo_config_file': str(SAMPLE)}, 'the test') == resolve({}, 'the test')


def test_the_sample_of_notifications_turns_them_on_when_a_driver_is_taken_from_it(tmp_path: Path) -> None:
    assert resolve({'oslo_config_file': str(NOTIFICATIONS)}, 'the test') == resolve({}, 'the test')
    file = tmp_path / 'imgguard.conf'
    file.write_text(re.sub('^#(?! )', '', NOTIFICATIONS.read_text(), flags=re.MULTILINE))
    assert resolve({'oslo_config_file': str(file)}, 'the test').notifications == str(file)
    # It would refuse what oslo.messaging cannot use.
    Publisher(Store(f'sqlite:///{tmp_path}/guard.db', 60).outbox, str(file))


def test_the_sample_knows_nothing_of_the_host_it_was_made_on() -> None:
    text = SAMPLE.read_text()
    assert str(ROOT) not in text and str(Path.home()) not in text
