"""Every option of the guard, once, with its type, its range and what operators need to know about it."""

from typing import Final

from oslo_config import cfg

GROUP: Final = cfg.OptGroup(
    'imgguard',
    title='imgguard',
    help='Keeps failed uploads of images visible. Each of these options may also be given in the paste section of '
         'the filter, where it wins over this file.')

_YEAR: Final = 31536000

OPTIONS: Final[tuple[cfg.Opt, ...]] = (
    cfg.StrOpt(
        'connection',
        default='sqlite:////var/lib/glance/imgguard.db',
        secret=True,
        help="SQLAlchemy URL of the guard's own store: SQLite, PostgreSQL, or MariaDB/MySQL.\n\n"
             'All workers of one Glance, on all its hosts, and imgguard-manage must name the same store; SQLite '
             'serves one host only. The path of an SQLite file must be absolute (four slashes), and the user '
             'Glance runs as must be able to write to its directory.\n\n'
             'imgguard-manage db upgrade creates and updates the tables. A $ in a password is written $$ in this '
             'file; a % is written %% in a paste file.'),
    cfg.StrOpt(
        'requeue',
        default='auto',
        choices=[
            ('auto', "inside Glance's process through Glance's own layers, elsewhere through glance_connection"),
            ('off', 'never: a retry of such an image is answered 409 with a text for the operator'),
        ],
        help='How an image that Glance holds in a dead state (saving or importing after a crash, killed, '
             'residues of rejected data) is put back to queued, so that it can be tried again.'),
    cfg.StrOpt(
        'glance_connection',
        secret=True,
        help="SQLAlchemy URL of Glance's own database.\n\n"
             "Needed only outside Glance's process: by the proxy, to put dead images back to queued, and by "
             'imgguard-manage, whose sweep otherwise settles leases and deadlines only. The account must be able '
             'to read and change images, their properties, their locations and tasks, and to delete properties.'),
    cfg.StrOpt(
        'keep_default',
        default='never',
        choices=[
            ('never', 'do not keep it'),
            ('snapshots', 'keep images whose image_type is "snapshot"; not "backup", because the rotation of '
                          'backups in nova counts kept ones and would delete good ones'),
            ('always', 'keep every image'),
        ],
        help='What happens to an image whose upload fails when its client asked neither to keep it nor not to.'),
    cfg.StrOpt(
        'error_status',
        default='error',
        choices=[
            ('error', 'what openstacksdk waits for'),
            ('killed', 'for clients that refuse a status they do not know'),
        ],
        help='The status shown for an image whose upload failed. ?status=error finds these images either way.'),
    cfg.IntOpt(
        'cleanup_window',
        default=30,
        min=0,
        max=3600,
        help='Seconds after a failure in which a DELETE by the user whose upload failed is taken for the '
             'cleaning up that many clients do by themselves: it is answered 204 and the image is kept. A DELETE '
             'with the header X-OpenStack-Image-Keep-On-Failure: false deletes at any time. With 0 every DELETE '
             'does.'),
    cfg.IntOpt(
        'give_up_after',
        default=0,
        min=0,
        max=_YEAR,
        help='Seconds a kept image may wait for its data before it is shown in error (never_arrived). A client '
             'can set another limit for its image (header X-OpenStack-Image-Give-Up-After). With 0 there is no '
             'limit.'),
    cfg.IntOpt(
        'lease_seconds',
        default=60,
        min=5,
        max=3600,
        help='Seconds without a sign of life from its worker after which an upload or import is lost and the '
             'image is shown in error (worker_lost); 5 more are allowed for clocks. A living worker renews its '
             'lease however slow its client is. Lower values find crashes sooner and write to the store more '
             'often. Must be less than fence_seconds.'),
    cfg.IntOpt(
        'fence_seconds',
        default=600,
        min=6,
        max=86400,
        help='Seconds without a sign of life after which what a lost upload on another host has left behind may '
             'be cleared away. Until then a retry is answered 409, because a host that is cut off may still be '
             'writing. imgguard-manage requeue IMAGE --worker-is-dead does not wait. Must be greater than '
             'lease_seconds.'),
    cfg.IntOpt(
        'import_stall_seconds',
        default=3600,
        min=1,
        max=_YEAR,
        help='Seconds after which an import or copy that makes no progress has failed. Glance itself waits for a '
             'silent source for ever.'),
    cfg.StrOpt(
        'on_store_failure',
        default='pass',
        choices=[
            ('pass', 'let it run unguarded; the log and the header X-OpenStack-Image-Kept say so'),
            ('refuse', 'answer 500 with a text that says why, before any of the data is read'),
        ],
        help="What happens to an upload that is to be kept on failure while the guard's store cannot be reached."),
    cfg.IntOpt(
        'retention_days',
        default=30,
        min=1,
        max=3650,
        help='Days for which attempts are kept after their image became active or was deleted. The error shown '
             'for an image stays as long as the image. imgguard-manage purge removes what is older.'),
)

PROXY_OPTIONS: Final[tuple[cfg.Opt, ...]] = (
    cfg.StrOpt(
        'backend_url',
        help='Where the Glance is that the proxy stands in front of: http://HOST:PORT, or https.\n\n'
             'Of the proxy (egg:imgguard#proxy) only, as are the options below; it has no default.'),
    cfg.IntOpt(
        'connect_timeout',
        default=10,
        min=1,
        max=3600,
        help='Seconds after which a connection to Glance that is not established is given up; the answer is 504.'),
    cfg.IntOpt(
        'read_timeout',
        default=600,
        min=1,
        max=86400,
        help='Seconds without a byte from Glance after which its answer is given up (504, or a broken connection when '
             'it had begun). Glance is silent while it stores the end of an upload.'),
    cfg.BoolOpt(
        'forward_identity',
        default=False,
        help='Whether the identity headers of a request (X-Project-Id, X-Roles and their like) are believed and sent '
             'on. Only where nobody reaches the proxy but by a server that removes them from what clients send: '
             'whoever sets them is whom they say. Not needed with authtoken in front of the proxy.'),
    cfg.StrOpt(
        'cafile',
        help='PEM file with the certificates that may vouch for a Glance at https; those of the system when not set.'),
    cfg.BoolOpt(
        'insecure',
        default=False,
        help='Whether the certificate of a Glance at https is not verified. For tests.'),
    cfg.StrOpt(
        'v1_error_status',
        default='error',
        choices=[
            ('error', 'the same as the API v2 shows by default'),
            ('queued', 'for clients that refuse to upload again to an image that is not queued, as the command line '
                       '"glance --os-image-api-version 1 image-update --file" does; the properties tell the error'),
        ],
        help='The status that the Images API v1 of an old Glance shows for an image whose upload failed.'),
)


def list_opts() -> list[tuple[cfg.OptGroup, list[cfg.Opt]]]:
    """Return the options for oslo-config-generator (entry point ``oslo.config.opts``, namespace ``imgguard``)."""
    return [(GROUP, [*OPTIONS, *PROXY_OPTIONS])]
