"""Every name the guard shares with the outside, each spelled once.

Headers are given as HTTP spells them and, where the guard reads them from a request, as WSGI spells
them in the environ (PEP 3333, "environ Variables").
"""

from typing import Final

# Requests
KEEP_HEADER: Final = 'X-OpenStack-Image-Keep-On-Failure'
KEEP_ENVIRON: Final = 'HTTP_X_OPENSTACK_IMAGE_KEEP_ON_FAILURE'
GIVE_UP_AFTER_HEADER: Final = 'X-OpenStack-Image-Give-Up-After'
GIVE_UP_AFTER_ENVIRON: Final = 'HTTP_X_OPENSTACK_IMAGE_GIVE_UP_AFTER'
KEEP_PROPERTY: Final = 'imgguard_keep_on_failure'
SIZE_HEADER: Final = 'X-OpenStack-Image-Size'
SIZE_ENVIRON: Final = 'HTTP_X_OPENSTACK_IMAGE_SIZE'
CONTENT_DIGEST_HEADER: Final = 'Content-Digest'
CONTENT_DIGEST_ENVIRON: Final = 'HTTP_CONTENT_DIGEST'
REPR_DIGEST_HEADER: Final = 'Repr-Digest'
REPR_DIGEST_ENVIRON: Final = 'HTTP_REPR_DIGEST'

# Answers
IMAGE_ID_HEADER: Final = 'X-OpenStack-Image-Id'
KEPT_HEADER: Final = 'X-OpenStack-Image-Kept'
KEPT_GUARDED: Final = 'guarded'
KEPT_ERROR: Final = 'error'
KEPT_UNAVAILABLE: Final = 'unavailable'

# Properties of an image in error
ERROR: Final = 'os_glance_image_error'
ERROR_CODE: Final = 'os_glance_image_error_code'
ERROR_AT: Final = 'os_glance_image_error_at'
ERROR_RETRYABLE: Final = 'os_glance_image_error_retryable'
ERROR_REQUEST_ID: Final = 'os_glance_image_error_request_id'
ERROR_ATTEMPTS: Final = 'os_glance_image_error_attempts'
GIVE_UP_AT: Final = 'os_glance_image_give_up_at'

PROPERTIES: Final = frozenset({
    ERROR, ERROR_CODE, ERROR_AT, ERROR_RETRYABLE, ERROR_REQUEST_ID, ERROR_ATTEMPTS, GIVE_UP_AT})
"""The properties that only the guard writes. Glance reserves their prefix since Rocky (18.0)."""

# Glance's own properties that name a host; it hands requests on to it (glance/api/v2/images.py, PROXYABLE_HOSTS).
STAGE_HOST: Final = 'os_glance_stage_host'
HOSTS: Final = (STAGE_HOST, 'os_glance_hash_op_host')

# Statuses
STATUS_ERROR: Final = 'error'
