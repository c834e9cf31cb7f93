"""``python -m chaos [--seconds N] [--seed S]``.

Exit status: 0 when no promise was broken, 1 when one was or the run met nothing, 2 when this machine cannot run it.
"""

import argparse
import signal
import sys
import tempfile
import threading
from pathlib import Path
from random import Random, SystemRandom

from chaos.databases import Missing
from chaos.ending import Ending, Verdict
from chaos.players import Player
from chaos.table import table
from chaos.trouble import directors
from chaos.world import World, made
from tests.hosts import can_be_apart

PLAYERS = 12
_ENDED = 128 + signal.SIGTERM


def play(world: World, seconds: float, seed: str) -> None:
    """Use and break it for so long; at the end all is mended."""
    stop, rest = threading.Event(), threading.Event()
    trouble = directors(world, seed, stop)
    players = [threading.Thread(daemon=True, target=Player(
        world.ports, world.source, world.ledger, Random(f'{seed}/player/{number}')).play, args=(rest,))
        for number in range(PLAYERS)]
    for each in (*trouble, *players):
        each.start()
    stop.wait(seconds)
    stop.set()
    rest.set()
    for each in (*trouble, *players):
        each.join()
    for director in trouble:
        if director.error is not None:
            raise director.error


def run(folder: Path, seconds: float, seed: str) -> Verdict:
    """One run in an empty folder, with its table printed."""
    with made(folder) as world:
        if not world.disk.is_small:
            print('No disk is filled: this machine lets us make none that is small.')
        if not can_be_apart():
            print('The hosts have one name, and can prove the deaths of the other: this machine lets us give none.')
        if world.broker is None:
            print('Nobody is told of events, and no broker is broken: this machine has no RabbitMQ to start.')
        play(world, seconds, seed)
        verdict = Ending(world, seed).judge()
        print(table(world.ledger, verdict))
        for each in verdict.wrong:
            print(f'\n{each}')
    return verdict


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog='python -m chaos', description=sys.modules['chaos'].__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seconds', type=float, default=60, help='how long it is used and broken (60)')
    parser.add_argument('--seed', default=None, help='repeats the instants of another run')
    parser.add_argument('--folder', type=Path, help='a new one, which stays: the logs are in it')
    given = parser.parse_args()
    seed = given.seed or str(SystemRandom().randrange(2**32))
    print(f'chaos: seed {seed}, {given.seconds:.0f} seconds', flush=True)
    # Whoever ends it so, as CI does with a run that was called off, leaves no servers and no disk behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_ENDED))
    try:
        if given.folder is not None:
            given.folder.mkdir()
            return 1 if run(given.folder, given.seconds, seed).wrong else 0
        with tempfile.TemporaryDirectory(prefix='imgguard-chaos-') as folder:
            return 1 if run(Path(folder), given.seconds, seed).wrong else 0
    except Missing as error:
        print(f'chaos: {error}', file=sys.stderr)
        return 2


if __name__ == '__main__':
    sys.exit(main())
