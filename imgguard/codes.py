"""The closed set of failure codes: why the data of an image did not arrive whole.

A code is never changed or reused once released: programs compare with it, stores keep it. New ones may
be added. What decides on a code is elsewhere; here is what each one tells people.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

CLIENT_DISCONNECTED: Final = 'client_disconnected'
SIZE_MISMATCH: Final = 'size_mismatch'
DIGEST_MISMATCH: Final = 'digest_mismatch'
EMPTY_RETRY: Final = 'empty_retry'
BAD_REQUEST: Final = 'bad_request'
FORMAT_REJECTED: Final = 'format_rejected'
SIGNATURE_REJECTED: Final = 'signature_rejected'
SIZE_LIMIT_EXCEEDED: Final = 'size_limit_exceeded'
QUOTA_EXCEEDED: Final = 'quota_exceeded'
STORAGE_FULL: Final = 'storage_full'
STORAGE_UNAVAILABLE: Final = 'storage_unavailable'
CREDENTIALS_EXPIRED: Final = 'credentials_expired'
BACKEND_ERROR: Final = 'backend_error'
SOURCE_UNREACHABLE: Final = 'source_unreachable'
IMPORT_FAILED: Final = 'import_failed'
WORKER_LOST: Final = 'worker_lost'
NEVER_ARRIVED: Final = 'never_arrived'
ABANDONED: Final = 'abandoned'
DECLARED: Final = 'declared'


@dataclass(frozen=True, slots=True)
class Code:
    """One reason of failure.

    :param name: as shown in ``os_glance_image_error_code``
    :param text: shown to users where nothing more exact is known; one printable line
    :param retryable: whether the same data may be sent again to the same image as it is. ``True`` also where
        somebody has to make room or repair something first, so long as nothing in the request, the data or
        the properties of the image has to change
    :param hint: what the user or the operator can do, for the documentation; one line
    """

    name: str
    text: str
    retryable: bool
    hint: str


_ALL: Final = (
    Code(CLIENT_DISCONNECTED, 'The connection to the client was lost before all data had arrived.', True,
         'Send the data again. If it happens again, look at time limits of load balancers between client and Glance.'),
    Code(SIZE_MISMATCH, 'The number of bytes received is not the number that was announced.', True,
         'Compare the size of the file with what the client announced, then send the data again.'),
    Code(DIGEST_MISMATCH, 'The data received does not match the digest sent with it.', True,
         'The data was damaged on its way, or the digest is of other data: compare both and send the data again.'),
    Code(EMPTY_RETRY, 'The retry had no data, although an earlier attempt had begun to send some.', False,
         'A client repeated a body it had used up. Open or rewind the file, then send it from its beginning.'),
    Code(BAD_REQUEST, 'The request was not valid.', False,
         'Correct the request or the properties of the image as the text says, then send the data again.'),
    Code(FORMAT_REJECTED, 'The data is not of the declared disk format, or was judged unsafe.', False,
         'Correct disk_format, or convert the file (for example: no backing file), then send it again.'),
    Code(SIGNATURE_REJECTED, 'The signature of the image could not be verified.', False,
         'Correct the img_signature properties or the certificate they name, or sign the data again.'),
    Code(SIZE_LIMIT_EXCEEDED, 'The data is larger than an image may be.', False,
         'Send a smaller image (compressed, or qcow2 instead of raw), or ask the operator about image_size_cap.'),
    Code(QUOTA_EXCEEDED, 'The image exceeds a quota of the project.', True,
         'Delete images that are no longer needed, wait for other uploads of the project, or ask for a larger quota.'),
    Code(STORAGE_FULL, 'The image storage is full.', True,
         'Operator: make room in the image store. Users: send the data again afterwards.'),
    Code(STORAGE_UNAVAILABLE, 'The image storage cannot be written to at present.', True,
         "Operator: see Glance's log for the store that failed. Users: send the data again later."),
    Code(CREDENTIALS_EXPIRED, 'The credentials expired before all data was stored.', True,
         'Send the data again with a fresh token; for long uploads use tokens that live longer.'),
    Code(BACKEND_ERROR, 'The image service failed while it took the data.', True,
         "Operator: look for the request id in Glance's log. Users: send the data again later."),
    Code(SOURCE_UNREACHABLE, 'The source of the data could not be read.', True,
         'Check that the source can be reached from the Glance hosts and answers with the whole data; import again.'),
    Code(IMPORT_FAILED, 'The import did not finish.', True,
         "Import again. Operator: Glance tells the cause only in its log; look for the import's request id there."),
    Code(WORKER_LOST, 'The service process that took the data stopped before it was done.', True,
         'Send the data again. Operator: look for a killed or restarted worker on the host named by the attempt.'),
    Code(NEVER_ARRIVED, 'The data did not arrive within the time allowed.', True,
         'Send the data, or delete the image. The time is set by X-OpenStack-Image-Give-Up-After or give_up_after.'),
    Code(ABANDONED, 'The client gave the image up before any data was sent.', True,
         'Send the data after all, or delete the image.'),
    Code(DECLARED, 'It was declared that the data of this image will never arrive.', False,
         'Ask whoever declared it. To use the image all the same, set its status back to queued, then send the data.'),
)

CODES: Final[Mapping[str, Code]] = MappingProxyType({code.name: code for code in _ALL})
"""Every code by its name, in the order of the documentation."""


def default_text(name: str) -> str:
    """Return the text shown to users where nothing more exact is known.

    :param name: one of the codes above
    :raises KeyError: it is none of them
    """
    return CODES[name].text
