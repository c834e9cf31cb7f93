"""``etc/imgguard.conf.sample`` says what the options say."""

from pathlib import Path

from oslo_config import generator

from imgguard.settings import resolve

ROOT = Path(__file__).parent.parent
GENERATOR = ROOT / 'etc' / 'oslo-config-generator' / 'imgguard.conf'
SAMPLE = ROOT / 'etc' / 'imgguard.conf.sample'


def test_the_sample_is_what_the_options_generate(tmp_path: Path) -> None:
    fresh = tmp_path / 'imgguard.conf.sample'
    generator.main(['--config-file', str(GENERATOR), '--output-file', str(fresh)])
    assert fresh.read_text() == SAMPLE.read_text(), (
        'the sample is stale; run in the top directory of an installed tree: '
        f'oslo-config-generator --config-file {GENERATOR.relative_to(ROOT)}')


def test_the_sample_can_be_used_as_it_is() -> None:
    assert resolve({'oslo_config_file': str(SAMPLE)}, 'the test') == resolve({}, 'the test')


def test_the_sample_knows_nothing_of_the_host_it_was_made_on() -> None:
    text = SAMPLE.read_text()
    assert str(ROOT) not in text and str(Path.home()) not in text
