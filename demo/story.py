"""The story of `make demo`: an upload breaks, the image stays and says why, and is uploaded again.

A private Glance 33.0.0 with the guard in its pipeline is laid out in ``.demo/`` and started under
uWSGI with four processes. Each step is a real request; each claim about its answer is checked.
"""

import hashlib
import http.client
import json
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from demo.client import Answer, Client
from demo.private_glance import CHECKOUT, PrivateGlance, PrivateGlanceError, lay_out, script
from demo.server import Kind, Server, Size, start

FOLDER = CHECKOUT / '.demo'
PROCESSES = 4
ANNOUNCED_BYTES = 1024 * 1024
SENT_BYTES = 300 * 1024
KEEP = {'X-OpenStack-Image-Keep-On-Failure': 'true'}
WAIT_SECONDS = 30.0
POLL_SECONDS = 0.1
#: What is worth reading of an image; everything else is as Glance shows any image.
TELLING = ('id', 'name', 'status', 'size', 'checksum')
ERROR = 'os_glance_image_error'


class StepFailed(Exception):
    """A step did not come out as told; the text says what was expected and what came."""


def play() -> int:
    """Set up, play the story, tear down; return the exit status."""
    try:
        with _set_up() as server:
            _play(server)
            _farewell(server.glance)
    except (StepFailed, PrivateGlanceError, OSError, ValueError, http.client.HTTPException) as error:
        print(f'\nNOT AS TOLD: {error}\nLogs are in {FOLDER}.')
        return 1
    except KeyboardInterrupt:
        print('\nInterrupted.')
        return 130
    print('\nEvery step came out as told.')
    return 0


def serve() -> int:
    """Set up and leave the server running until Ctrl-C; return the exit status."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _set_up() as server:
            print(_lines_to_paste(server), flush=True)
            return server.process.wait()
    except PrivateGlanceError as error:
        print(error)
        return 1
    except KeyboardInterrupt:
        print('\nStopped.')
        return 0


def _set_up() -> Server:
    print(f'A private Glance in {FOLDER}: configuration, SQLite databases, a file store ...', flush=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    glance = lay_out(FOLDER, guard={})
    server = start(glance, Kind.UWSGI_HTTP, Size(processes=PROCESSES))
    print(f'... runs under uWSGI with {PROCESSES} processes at {server.url}', flush=True)
    return server


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _play(server: Server) -> None:
    client = Client(server.port)
    data = hashlib.shake_256(b'imgguard').digest(ANNOUNCED_BYTES)

    _title('1. An image is created; its client asks to keep it whatever happens to the upload.')
    _print_request('POST', '/v2/images', {**KEEP, 'Content-Type': 'application/json'}, 'name=demo, raw, bare')
    created = client.create(KEEP, name='demo')
    _print_answer(created)
    _expect('it was created', created.status, 201)
    _expect('it waits for its data: queued', created.json['status'], 'queued')
    image_id: str = created.json['id']
    path = f'/v2/images/{image_id}'

    _title('2. The upload is cut in the middle: 1 MiB is announced, 300 KiB are sent, the client hangs up.')
    content = {'Content-Type': 'application/octet-stream'}
    _print_request('PUT', f'{path}/file', {**content, 'Content-Length': str(ANNOUNCED_BYTES)}, f'{SENT_BYTES} bytes')
    client.cut_upload(image_id, data[:SENT_BYTES], ANNOUNCED_BYTES)
    print('  < (nobody is there to read an answer)')

    _title('3. The image is there and says what happened; without the guard it would be "queued", and silent.')
    _print_request('GET', path)
    shown = _wait_for(lambda: client.show(image_id), lambda image: image['status'] == 'error')
    _print_answer(shown)
    _expect('the code says that the client disconnected', shown.json.get(f'{ERROR}_code'), 'client_disconnected')
    _expect('there is a text for people', bool(shown.json.get(ERROR)), True)

    _title('4. Lists know it: under status=error, and no longer under status=queued.')
    for status, listed in (('error', True), ('queued', False)):
        _print_request('GET', f'/v2/images?status={status}')
        answer = client.request('GET', f'/v2/images?status={status}')
        _print_answer(answer)
        _expect('the list is answered', answer.status, 200)
        ids = [image['id'] for image in answer.json['images']]
        _expect(f'status={status} ' + ('lists it' if listed else 'does not list it'), image_id in ids, listed)

    _title('5. The same image is uploaded again, whole this time.')
    _print_request('PUT', f'{path}/file', content, f'{len(data)} bytes')
    uploaded = client.upload(image_id, data)
    _print_answer(uploaded)
    _expect('it was accepted', uploaded.status, 204)

    _title('6. It is active, its checksum is that of the data, and no trace of the error is left on it.')
    _print_request('GET', path)
    final = client.show(image_id)
    _print_answer(final)
    _expect('it is active', final.json['status'], 'active')
    checksum = hashlib.md5(data, usedforsecurity=False).hexdigest()
    _expect('the checksum is the MD5 of the data', final.json['checksum'], checksum)
    _expect('nothing tells of an error any more', [name for name in final.json if name.startswith(ERROR)], [])
    downloaded = client.request('GET', f'{path}/file')
    _expect('the data comes back as it was sent', downloaded.body == data, True)


def _wait_for(ask: Callable[[], Answer], good: Callable[[Any], bool]) -> Answer:
    """Ask until the answer is good; who hung up cannot know when the server noticed."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        answer = ask()
        if answer.status == 200 and good(answer.json):
            return answer
        if time.monotonic() > deadline:
            raise StepFailed(f'not within {WAIT_SECONDS:.0f} s; the last answer was {answer.status} {answer.text}')
        time.sleep(POLL_SECONDS)


def _expect(claim: str, found: object, expected: object) -> None:
    if found != expected:
        raise StepFailed(f'{claim}: found {found!r} where {expected!r} was expected')
    print(f'  ok: {claim}', flush=True)


def _title(text: str) -> None:
    print(f'\n{text}')


def _print_request(method: str, path: str, headers: dict[str, str] | None = None, body: str = '') -> None:
    print(f'  > {method} {path}')
    for name, value in (headers or {}).items():
        print(f'  > {name}: {value}')
    if body:
        print(f'  > ({body})')


def _print_answer(answer: Answer) -> None:
    print(f'  < {answer.status} {answer.reason}')
    kept = answer.headers.get('x-openstack-image-kept')
    if kept:
        print(f'  < X-OpenStack-Image-Kept: {kept}')
    if not answer.headers.get('content-type', '').startswith('application/json'):
        return
    document = answer.json
    if 'images' in document:
        print(f'  < {len(document["images"])} image(s)')
    for image in document.get('images', [document]):
        errors = sorted(name for name in image if name.startswith(ERROR))
        for name in [*TELLING, *errors]:
            print(f'  <   {name}: {json.dumps(image.get(name), ensure_ascii=False)}')


def _farewell(glance: PrivateGlance) -> None:
    print(f"""
The server is stopped now. What it left is in {glance.folder}:
  {_relative(glance.paste_file)}  the pipeline with the guard
  {_relative(glance.glance_log)}  Glance's log
  {_relative(glance.guard_database)}  the guard's own store
Next:
  make serve   the same server, left running, with lines to paste into another terminal
  make test    all the tests
  .venv/bin/imgguard-manage --help""")


def _relative(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def _lines_to_paste(server: Server) -> str:
    data, manage, paste_file = (shlex.quote(str(path)) for path in (
        server.glance.folder / 'image.raw', script('imgguard-manage'), server.glance.paste_file))
    return f"""
Everyone is admin here and only this machine can reach it. Paste into another terminal:

URL={server.url}
# create an image and ask to keep it
ID=$(curl -s "$URL/v2/images" -H 'Content-Type: application/json' -H 'X-OpenStack-Image-Keep-On-Failure: true' \\
  -d '{{"name": "mine", "disk_format": "raw", "container_format": "bare"}}' \\
  | python3 -c 'import json, sys; print(json.load(sys.stdin)["id"])'); echo "$ID"
# break an upload: 1 MiB at 100 KiB/s, cut off after 3 seconds
head -c 1048576 /dev/urandom > {data}
curl -s -X PUT "$URL/v2/images/$ID/file" -H 'Content-Type: application/octet-stream' -H 'Expect:' \\
  --limit-rate 100k --max-time 3 --data-binary @{data}
# see what happened, and find it
curl -s "$URL/v2/images/$ID" | python3 -m json.tool
curl -s "$URL/v2/images?status=error" | python3 -m json.tool
{manage} --paste-file {paste_file} failures list
# upload again on the same id
curl -s -X PUT "$URL/v2/images/$ID/file" -H 'Content-Type: application/octet-stream' --data-binary @{data}
curl -s "$URL/v2/images/$ID" | python3 -m json.tool
# what was tried, for its owner and for the operator
curl -s "$URL/v2/images/$ID/attempts" | python3 -m json.tool
{manage} --paste-file {paste_file} attempts list "$ID"

Logs and databases are in {server.glance.folder}. Ctrl-C stops the server."""
