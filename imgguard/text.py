"""Make words that came from elsewhere fit to be shown to a user or written to a log.

A reason text is one printable line of bounded length without file-system paths and addresses: it is
shown to the image's project, who must not learn how the operator's storage is laid out.
"""

import html
import json
import re
from typing import Final

MAX_TEXT: Final = 1024

_TAG: Final = re.compile(r'<[^<>]{0,200}>')
_ADDRESS: Final = re.compile(r'\b[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s\'"<>]*')
_PATH: Final = re.compile(r'(?:(?<![\w/.~-])|(?<=\\[nrt]))(?:~|\.{1,2})?/(?:[^\s\'"<>:;,()\[\]]|:(?=\S))+')
_HEADING: Final = re.compile(r'^\d{3} [A-Z][A-Za-z -]*$')


def one_line(text: str, limit: int = MAX_TEXT) -> str:
    """One printable line: anything else becomes a space, runs of spaces one, cut at ``limit`` characters."""
    if len(text) <= limit and ' ' not in text and text.isprintable():
        # As ids are, of which every request has one.
        return text
    head = text[:8 * limit]
    printable = ''.join(character if character.isprintable() else ' ' for character in head)
    line = ' '.join(printable.split())
    return line if len(line) <= limit else line[:limit - 1].rstrip() + '…'


def without_places(text: str) -> str:
    """Take file-system paths and addresses out of a reason."""
    head = text[:8 * MAX_TEXT]
    return _PATH.sub('(path)', _ADDRESS.sub('(address)', head))


def reason(text: str) -> str:
    """A foreign reason, fit to be shown: :func:`without_places` and :func:`one_line`, and no statement of SQL."""
    # SQLAlchemy appends statement, parameters and a link (sqlalchemy/exc.py, StatementError._sql_message).
    return one_line(without_places(text.partition('\n[SQL: ')[0]))


def explanation(body: bytes, content_type: str) -> str:
    """The explanation within an error answer of Glance, in any of the three forms WebOb renders.

    WebOb chooses plain text, HTML or JSON by the request's Accept (``webob/exc.py``,
    ``WSGIHTTPException.generate_response``); the explanation follows the status line in each.

    :returns: one line; empty when there is none
    """
    text = body[:64 * 1024].decode('utf-8', 'replace')
    if 'json' in content_type:
        text = _json_message(text)
    elif 'html' in content_type:
        text = re.sub(r'(?is)<(title|h1)>.*?</\1>', ' ', text)
    if 'plain' not in content_type:
        text = html.unescape(_TAG.sub(' ', text))
    lines = [line.strip() for line in text.splitlines()]
    if 'json' not in content_type and lines and _HEADING.match(lines[0]):
        lines = lines[1:]
    return reason(' '.join(lines))


def _json_message(text: str) -> str:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return ''
    message = document.get('message') if isinstance(document, dict) else None
    return message if isinstance(message, str) else ''
