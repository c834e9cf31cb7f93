"""Images as whoever asks sees them: who that is, what Glance says of an image, and what may be done with it.

Glance is asked in one of two ways: in its own process (:mod:`imgguard.glance_images`), or by requests with the
caller's own token (:mod:`imgguard.remote_images`).
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from imgguard import names
from imgguard.about import About
from imgguard.attempts import Kind
from imgguard.border import Border
from imgguard.errors import GlanceUnavailable
from imgguard.text import one_line

LOG: Final = logging.getLogger(__name__)


class Caller(NamedTuple):
    """Who sent the request; a tuple as :class:`imgguard.operations.Operation` is one.

    :param given_request_id: the id of the request, by whoever chose it
    :param context: what the way of asking Glance needs of the caller: Glance's own context object, or
        :class:`imgguard.remote_images.Asker`
    :param identified: whether somebody has said who it is; a proxy without ``authtoken`` does not know
    """

    user_id: str | None
    project_id: str | None
    is_admin: bool
    given_request_id: str | None
    context: Any
    identified: bool = True

    @property
    def request_id(self) -> str | None:
        """The id of the request as Glance answers it in ``x-openstack-request-id``, fit for a log line."""
        if not self.given_request_id:
            return None
        request_id = one_line(self.given_request_id, 255)
        return request_id if request_id.startswith('req-') else f'req-{request_id}'

    def may_read_details(self, owner: str | None, visibility: str | None) -> bool:
        """Whether text and request id of a failure are for this caller, who may see the image.

        They are for the owner's project and admins. Of whom nothing is known it is known that only these two see a
        private image.
        """
        if not self.identified:
            return visibility == 'private'
        return self.is_admin or (owner is not None and owner == self.project_id)


@dataclass(frozen=True, slots=True)
class Image:
    """An image as Glance has it.

    :param created_at: in the spelling of Glance's API, for example ``2026-11-22T22:19:29Z``
    :param image_type: the property ``image_type``, which nova sets to ``snapshot`` or ``backup``
    :param protected: whether Glance refuses to delete it
    :param has_data: whether Glance knows a place of its data, be it good data or what a failed attempt has left
    :param staged_here: whether Glance says that this is the host that has its staged data
    :param elsewhere: whether Glance hands its import and its deletion on to another host
    :param size: bytes of its data, in Glance 33 also of what is staged; ``None`` while unknown
    :param updated_at: when Glance last changed it, in whole seconds; ``None`` where that is not asked for
    """

    image_id: str
    created_at: str
    status: str
    owner: str | None
    image_type: str | None
    protected: bool = False
    has_data: bool = False
    staged_here: bool = False
    elsewhere: bool = False
    visibility: str | None = None
    size: int | None = None
    updated_at: str | None = None


class Forbidden(Exception):
    """Glance's policy does not let this caller do that; ``answer`` is the WSGI application that says so."""

    def __init__(self, answer: Any) -> None:
        super().__init__(str(answer))
        self.answer = answer


class Images(Protocol):
    """One way of asking Glance. What is raised beside :class:`Forbidden`, Glance meets again and answers itself."""

    def look(self, by: Caller, image_id: str) -> Image | None:
        """The image as this caller sees it; ``None`` when Glance would answer 404."""

    def for_upload(self, by: Caller, image_id: str) -> Image:
        """The image, when this caller may upload its data.

        :raises Forbidden: with Glance's own 403 or 404
        """

    def for_import(self, by: Caller, image_id: str, kind: Kind) -> Image:
        """The image, when this caller may have Glance fetch its data this way.

        :raises Forbidden: with Glance's own 403 or 404
        """

    def for_update(self, by: Caller, image_id: str) -> Image:
        """The image, when this caller may modify it.

        :raises Forbidden: with Glance's own 403 or 404
        """

    def for_delete(self, by: Caller, image_id: str) -> Image:
        """The image, when this caller may delete it; that it is protected is said by the image.

        :raises Forbidden: with Glance's own 403 or 404
        """

    def for_show(self, by: Caller, image_id: str) -> Image:
        """The image, when this caller may see it.

        :raises Forbidden: with Glance's own 404
        """

    def might_see(self, by: Caller, owner: str | None) -> bool:
        """Whether this caller might see an image of that project which is gone, by what goes for private ones."""

    def refuses_before_policy(self, environ: Mapping[str, Any]) -> bool:
        """Whether Glance refuses this upload for its form, before it looks at image and policy.

        Such an answer (415, 400) cannot touch the image, and a caller without rights must get just that.
        """


def granted(ask: Callable[[Caller, str], Image], by: Caller, image_id: str) -> Image | None:
    """The image, when the caller may do that; ``None`` when Glance itself, given the request, will say why not.

    :param ask: the method of :class:`Images` for that request
    """
    # Whatever Glance's database, policy or drivers raise, Glance meets it again and answers it.
    with Border(About(LOG, image_id), 'cannot ask Glance about an image', GlanceUnavailable):
        try:
            return ask(by, image_id)
        except Forbidden:
            return None
    return None


def is_refused_for_its_form(environ: Mapping[str, Any]) -> bool:
    """Whether Glance refuses this upload for its media type or its announced size, before it looks at anything else."""
    # As WebOb takes the header apart, letter by letter.
    media_type = str(environ.get('CONTENT_TYPE') or '').partition(';')[0]
    if media_type != 'application/octet-stream':
        return True
    try:
        int(str(environ.get(names.SIZE_ENVIRON, '0')))
    except ValueError:
        return True
    return False
