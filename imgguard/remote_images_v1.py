"""Asking a Glance with the API v1 about an image, with the caller's own token: the way of the proxy for v1 requests.

Who may modify an image is found out by an update that is refused once the caller is let in
(:data:`imgguard.remote_images.OUT_OF_RANGE`). Nothing is saved, and nothing else of the image is named.
"""

from typing import Final

from imgguard.images import Caller, Image
from imgguard.remote_images import OUT_OF_RANGE, NotAllowed, NotAnswered, RemoteImages, asker, image_of

# A member with whom the image is shared may not modify it, and is answered 500.
_REFUSALS: Final = (401, 403, 404, 500)


class RemoteImagesV1(RemoteImages):
    """Images of the Glance behind the proxy, as its API v1 tells of them."""

    def for_show(self, by: Caller, image_id: str) -> Image:
        """See :class:`imgguard.images.Images`."""
        return image_of(asker(by).image_of_v1(image_id))

    def for_upload(self, by: Caller, image_id: str) -> Image:
        """See :class:`imgguard.images.Images`; whoever may modify an image is taken for one who may upload to it."""
        return self.for_update(by, image_id)

    def for_update(self, by: Caller, image_id: str) -> Image:
        """See :class:`imgguard.images.Images`."""
        try:
            image: Image | None = self.for_show(by, image_id)
        except NotAllowed as refusal:
            # HEAD was refused without the text that Glance has for a PUT.
            image, refused = None, refusal
        answer = asker(by).ask('PUT', f'/v1/images/{image_id if image is None else image.image_id}', more=OUT_OF_RANGE)
        if answer.status in _REFUSALS:
            raise NotAllowed(answer)
        if image is None:
            raise refused
        if answer.status != 400 or b'min_disk' not in answer.body():
            raise NotAnswered(f'Glance answered {answer.status_line!r} where 400 says that an update is allowed')
        return image

    def refuses_before_policy(self, environ: object) -> bool:
        """See :class:`imgguard.images.Images`; whatever v1 refuses for its form, it may have killed the image for."""
        return False


def delete_v1(by: Caller, image_id: str) -> bool:
    """Delete an image in its caller's name; whether Glance did."""
    return asker(by).ask('DELETE', f'/v1/images/{image_id}').status == 200
