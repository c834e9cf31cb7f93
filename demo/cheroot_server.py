"""Serve Glance with cheroot: ``python -m demo.cheroot_server HOST:PORT THREADS``."""

import signal
import sys
from types import FrameType

from cheroot import wsgi


def main() -> None:
    """Serve until SIGTERM, with the Glance that ``OS_GLANCE_CONFIG_DIR`` names."""
    from glance.wsgi.api import application  # builds the application, which is not for importers of this module

    host, _, port = sys.argv[1].rpartition(':')
    server = wsgi.Server((host, int(port)), application, numthreads=int(sys.argv[2]))

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    server.safe_start()


if __name__ == '__main__':
    main()
