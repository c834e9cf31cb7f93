"""Asking Glance about an image, in Glance's own process and with the caller's identity.

Who the caller is comes from Glance's context object only (``glance/api/middleware/context.py``),
never from headers, which a client can send too. Who may do what is decided by Glance's own policy
(``glance/api/v2/policy.py``) on the image as Glance's database layer shows it to that caller.

Glance is imported when it is first asked: the package must load without it, for the commands.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from imgguard import names, text
from imgguard.attempts import Kind

LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent the request, by Glance's context.

    :param request_id: as Glance answers it in ``x-openstack-request-id``
    """

    user_id: str | None
    project_id: str | None
    is_admin: bool
    request_id: str | None
    context: Any

    def may_read_details(self, owner: str | None) -> bool:
        """Whether text and request id of a failure are for this caller: the owner's project and admins."""
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


class Forbidden(Exception):
    """Glance's policy does not let this caller do that; ``answer`` is the WSGI application that says so."""

    def __init__(self, answer: Any) -> None:
        super().__init__(str(answer))
        self.answer = answer


def granted(ask: Callable[[Caller, str], Image], by: Caller, image_id: str) -> Image | None:
    """The image, when the caller may do that; ``None`` when Glance itself, given the request, will say why not.

    :param ask: the method of :class:`GlanceImages` for that request
    """
    try:
        return ask(by, image_id)
    except Forbidden:
        return None
    except Exception:
        # Glance's database, policy or drivers: whatever it is, Glance meets it again and answers it.
        LOG.exception('cannot ask Glance about an image')
        return None


def caller(environ: Mapping[str, Any]) -> Caller | None:
    """Who sent this request; ``None`` where Glance's context is missing."""
    context = environ.get('webob.adhoc_attrs', {}).get('context')
    if not hasattr(context, 'is_admin'):
        # Glance puts the refusal of a request id that is too long in the place of the context.
        return None
    request_id = text.one_line(str(context.request_id), 255) if context.request_id else None
    if request_id and not request_id.startswith('req-'):
        request_id = f'req-{request_id}'
    return Caller(context.user_id, context.project_id, bool(context.is_admin), request_id, context)


class GlanceImages:
    """Images of the Glance in whose process the guard runs."""

    def look(self, by: Caller, image_id: str) -> Image | None:
        """The image as this caller sees it; ``None`` when Glance would answer 404."""
        from glance.common import exception
        try:
            return _image(self._get(by, image_id))
        except exception.NotFound:
            return None

    def for_upload(self, by: Caller, image_id: str) -> Image:
        """The image, when this caller may upload its data.

        :raises Forbidden: with Glance's own 403 or 404
        """
        # As glance/api/v2/image_data.py, upload, words it.
        return self._allowed(by, image_id, 'upload_image', f'Not allowed to upload image data for image {image_id}')

    def for_import(self, by: Caller, image_id: str, kind: Kind) -> Image:
        """The image, when this caller may have Glance fetch its data this way.

        :raises Forbidden: with Glance's own 403 or 404
        """
        # As glance/api/v2/images.py, import_image and add_location, ask it.
        rule = {Kind.COPY: 'copy_image', Kind.LOCATION: 'add_location'}.get(kind, 'modify_image')
        return self._allowed(by, image_id, rule, None)

    def for_update(self, by: Caller, image_id: str) -> Image:
        """The image, when this caller may modify it.

        :raises Forbidden: with Glance's own 403 or 404
        """
        return self._allowed(by, image_id, 'modify_image', None)

    def for_delete(self, by: Caller, image_id: str) -> Image:
        """The image, when this caller may delete it; that it is protected is said by the image.

        :raises Forbidden: with Glance's own 403 or 404
        """
        return self._allowed(by, image_id, 'delete_image', None)

    def for_show(self, by: Caller, image_id: str) -> Image:
        """The image, when this caller may see it.

        :raises Forbidden: with Glance's own 404
        """
        return self._allowed(by, image_id, 'get_image', None, changes=False)

    def might_see(self, by: Caller, owner: str | None) -> bool:
        """Whether this caller might see an image of that project which is gone, by Glance's policy for private ones."""
        from glance.api.v2 import policy
        gone = {'owner': owner, 'visibility': 'private'}
        return bool(policy.ImageAPIPolicy(by.context, gone, by.context.policy_enforcer).check('get_image'))

    def _allowed(self, by: Caller, image_id: str, rule: str, words: str | None, changes: bool = True) -> Image:
        import webob.exc
        from glance.api.v2 import policy
        from glance.common import exception
        if changes and by.context.read_only:
            # As glance/common/utils.py, mutating, words it.
            raise Forbidden(webob.exc.HTTPForbidden('Read-only access', content_type='text/plain'))
        try:
            found = self._get(by, image_id)
            getattr(policy.ImageAPIPolicy(by.context, found, by.context.policy_enforcer), rule)()
        except exception.NotFound as error:
            raise Forbidden(webob.exc.HTTPNotFound(explanation=error.msg)) from None
        except exception.Forbidden as error:
            raise Forbidden(webob.exc.HTTPForbidden(explanation=words or error.msg)) from None
        except webob.exc.HTTPError as error:
            raise Forbidden(error) from None
        return _image(found)

    def refuses_before_policy(self, environ: Mapping[str, Any]) -> bool:
        """Whether Glance refuses this upload for its form, before it looks at image and policy.

        Such an answer (415, 400) cannot touch the image, and a caller without rights must get just that.
        """
        import glance_store
        from oslo_config import cfg
        # As WebOb takes the header apart, letter by letter.
        media_type = str(environ.get('CONTENT_TYPE') or '').partition(';')[0]
        if media_type != 'application/octet-stream':
            return True
        try:
            int(str(environ.get(names.SIZE_ENVIRON, '0')))
        except ValueError:
            return True
        store = environ.get('HTTP_X_IMAGE_META_STORE')
        if store is None or not cfg.CONF.enabled_backends:
            return False
        try:
            glance_store.get_store_from_store_identifier(store)
        except glance_store.UnknownScheme:
            return True
        return False

    @staticmethod
    def _get(by: Caller, image_id: str) -> Any:
        import glance.db
        return glance.db.ImageRepo(by.context, glance.db.get_api()).get(image_id)


def _image(found: Any) -> Image:
    from oslo_config import cfg
    created_at = found.created_at.replace(microsecond=0, tzinfo=None).isoformat() + 'Z'
    image_type = found.extra_properties.get('image_type')
    # As glance/api/v2/images.py, is_proxyable, does it.
    here = cfg.CONF.worker_self_reference_url or cfg.CONF.public_endpoint
    hosts = {name: host for name in names.HOSTS if (host := found.extra_properties.get(name))}
    return Image(found.image_id, created_at, found.status, found.owner, image_type, bool(found.protected),
                 bool(found.locations), hosts.get(names.STAGE_HOST, '') == here,
                 any(host != here for host in hosts.values()))
