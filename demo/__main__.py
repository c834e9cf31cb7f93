"""``python -m demo`` plays the story, ``python -m demo serve`` leaves the server running."""

import argparse
import sys

from demo import story


def main() -> int:
    """Return the exit status: 0 when everything came out as told."""
    parser = argparse.ArgumentParser(prog='python -m demo', description=story.__doc__)
    parser.add_argument('command', nargs='?', choices=['story', 'serve'], default='story')
    return story.serve() if parser.parse_args().command == 'serve' else story.play()


if __name__ == '__main__':
    sys.exit(main())
