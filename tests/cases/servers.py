"""Rows that need servers, processes and sockets; :mod:`tests.test_cases_on_servers` and others play them."""

from tests.cases import Case

WORKER_LOST = ('The service process that took the data stopped before it was done.',)

SERVERS = (
    Case('1.20', 'The worker is killed during the upload', 'none', '``saving`` for ever, a file in the store, **no '
         'retry works**', 'worker_lost', words=WORKER_LOST),
    Case('1.21', 'uWSGI is stopped (SIGTERM, ``die-on-term``) during the upload', 'none', '``saving`` for ever, a file '
         'in the store, **no retry works**', 'worker_lost', words=('stopped',)),
    Case('1.22', 'gunicorn ends a sync worker whose client is silent (``timeout``)', 'none, or 500 of gunicorn',
         '``saving`` for ever, a file in the store, **no retry works**', 'worker_lost', words=('stopped',)),
    Case('1.23', "Glance's database is lost during the upload", '500, no reason', '``saving`` for ever, a file in the '
         'store, **no retry works**', 'backend_error', words=('Glance failed with status 500 during the upload',),
         first='the operator repairs the database'),
    # What servers do with a body that does not come as it should
    Case('1.40', 'The client is silent: uWSGI (``socket-timeout``, 4 s by default)', '500', '``queued``, a retry works',
         'client_disconnected', words=('The connection to the client was lost',)),
    Case('1.41', 'The client is silent: cheroot (10 s), gunicorn gthread (no limit)', '500, or none',
         '``queued``, a retry works', 'client_disconnected',
         untried='It is the failure to read of 1.1 and 1.2; only the time differs.'),
    Case('1.42', 'The connection is cut or reset, at any byte: uWSGI, cheroot, gunicorn', 'none, 400 or 500',
         '``queued``, a retry works', 'client_disconnected'),
    Case('1.43', 'The connection is cut: waitress', 'none; Glance is never called', '``queued``, a retry works', None,
         untried='No application sees it. ``give_up_after`` ends the waiting.'),
    Case('1.44', 'A chunked body with a malformed size line: uWSGI', '204', '``active``, truncated', None),
    Case('1.45', 'The same, announced by a size or a digest', '204', '``active``, truncated', 'size_mismatch',
         words=('announced',)),
    Case('1.46', '``Content-Length`` that is no number: uWSGI (other servers refuse it)', '204', '``active``, size 0',
         'bad_request', words=('Content-Length is not a number',), retryable=False, first='correct the client'),
    Case('1.47', 'A chunk of 1 MiB or more: uWSGI (``chunked-input-limit``)', '500', '``queued``, a retry works',
         'client_disconnected', first='send smaller chunks'),
    Case('2.2', 'A chunked body with a malformed size line: uWSGI', '204', '``uploading``, truncated', None,
         untried='As 1.44.'),
    Case('2.14', 'The worker is killed or stopped during the stage', 'none', '``uploading`` for ever, staged data, '
         '**no retry works**', 'worker_lost', words=('stopped',)),
    Case('4.28', 'The worker is killed during an import', '202', '``importing`` for ever, the import lock, **no retry '
         'works**', 'worker_lost', words=WORKER_LOST),
    Case('4.29', 'uWSGI is stopped (SIGTERM) during an import: Glance ends it first', '202', '``active``', None),
)
