"""Asking Glance about an image, in Glance's own process and with the caller's identity.

Who the caller is comes from Glance's context object only (``glance/api/middleware/context.py``),
never from headers, which a client can send too. Who may do what is decided by Glance's own policy
(``glance/api/v2/policy.py``) on the image as Glance's database layer shows it to that caller.

Glance is imported when it is first asked: the package must load without it, for the commands.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final

from imgguard import names
from imgguard.attempts import Kind
from imgguard.images import Caller, Forbidden, Image, is_refused_for_its_form

LOG: Final = logging.getLogger(__name__)


def caller(environ: Mapping[str, Any]) -> Caller | None:
    """Who sent this request; ``None`` where Glance's context is missing."""
    attributes = environ.get('webob.adhoc_attrs', {})
    if 'context' not in attributes:
        LOG.error('imgguard stands before the filter "context" of the pipeline: requests are handed through unguarded; '
                  'put imgguard after context')
        return None
    context = attributes['context']
    if not hasattr(context, 'is_admin'):
        # Glance puts the refusal of a request id that is too long in the place of the context.
        return None
    return Caller(context.user_id, context.project_id, bool(context.is_admin), context.request_id, context)


class GlanceImages:
    """Images of the Glance in whose process the guard runs."""

    def look(self, by: Caller, image_id: str) -> Image | None:
        """See :class:`imgguard.images.Images`."""
        from glance.common import exception
        try:
            return _image(self._get(by, image_id))
        except exception.NotFound:
            return None

    def for_upload(self, by: Caller, image_id: str) -> Image:
        """See :class:`imgguard.images.Images`."""
        # As glance/api/v2/image_data.py, upload, words it.
        return self._allowed(by, image_id, 'upload_image', f'Not allowed to upload image data for image {image_id}')

    def for_import(self, by: Caller, image_id: str, kind: Kind) -> Image:
        """See :class:`imgguard.images.Images`."""
        # As glance/api/v2/images.py, import_image and add_location, ask it.
        rule = {Kind.COPY: 'copy_image', Kind.LOCATION: 'add_location'}.get(kind, 'modify_image')
        return self._allowed(by, image_id, rule, None)

    def for_update(self, by: Caller, image_id: str) -> Image:
        """See :class:`imgguard.images.Images`."""
        return self._allowed(by, image_id, 'modify_image', None)

    def for_delete(self, by: Caller, image_id: str) -> Image:
        """See :class:`imgguard.images.Images`."""
        return self._allowed(by, image_id, 'delete_image', None)

    def for_show(self, by: Caller, image_id: str) -> Image:
        """See :class:`imgguard.images.Images`."""
        return self._allowed(by, image_id, 'get_image', None, changes=False)

    def might_see(self, by: Caller, owner: str | None) -> bool:
        """See :class:`imgguard.images.Images`."""
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
            judged = _Judged(found, by.context)
            getattr(policy.ImageAPIPolicy(by.context, judged, by.context.policy_enforcer), rule)()
        except exception.NotFound as error:
            raise Forbidden(webob.exc.HTTPNotFound(explanation=error.msg)) from None
        except exception.Forbidden as error:
            raise Forbidden(webob.exc.HTTPForbidden(explanation=words or error.msg)) from None
        except webob.exc.HTTPError as error:
            raise Forbidden(error) from None
        return _image(found)

    def refuses_before_policy(self, environ: Mapping[str, Any]) -> bool:
        """See :class:`imgguard.images.Images`."""
        import glance_store
        from oslo_config import cfg
        if is_refused_for_its_form(environ):
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
        return glance.db.ImageRepo(by.context, _Untagged(glance.db.get_api())).get(image_id)


class _Untagged:
    """Glance's database, as its repository reads an image, but without the tags.

    They are a query of their own by another connection, which takes two thirds as long as all else of the image.
    """

    def __init__(self, database: Any) -> None:
        self.image_get: Final = database.image_get

    @staticmethod
    def image_tag_get_all(*_: object) -> tuple[str, ...]:
        """None."""
        return ()


class _Judged:
    """An image as the policy sees it: its tags are read when a rule names them, which hardly any does."""

    def __init__(self, image: Any, context: Any) -> None:
        self._image: Final = image
        self._context: Final = context

    def __getattr__(self, name: str) -> Any:
        if name == '_image':
            # So it is while a copy is made, as a check over HTTP does (oslo_policy/_external.py).
            raise AttributeError(name)
        return getattr(self._image, name)

    @property
    def tags(self) -> set[str]:
        """As ``glance/db/__init__.py``, ``ImageRepo.get``, reads them."""
        import glance.db
        return set(glance.db.get_api().image_tag_get_all(self._context, self._image.image_id))


def _image(found: Any) -> Image:
    from oslo_config import cfg
    created_at = found.created_at.replace(microsecond=0, tzinfo=None).isoformat() + 'Z'
    image_type = found.extra_properties.get('image_type')
    # As glance/api/v2/images.py, is_proxyable, does it.
    here = cfg.CONF.worker_self_reference_url or cfg.CONF.public_endpoint
    hosts = {name: host for name in names.HOSTS if (host := found.extra_properties.get(name))}
    return Image(found.image_id, created_at, found.status, found.owner, image_type, bool(found.protected),
                 bool(found.locations), hosts.get(names.STAGE_HOST, '') == here,
                 any(host != here for host in hosts.values()), found.visibility)
