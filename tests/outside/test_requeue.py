"""A dead image is put back to ``queued`` by SQL on Glance's database: SQLite, PostgreSQL and MariaDB."""

import threading
from collections.abc import Callable, Iterator

import pytest

from imgguard.database_requeue import DatabaseRequeue
from imgguard.database_tasks import DatabaseTasks
from imgguard.errors import GlanceUnavailable
from imgguard.glance_database import GlanceDatabase
from imgguard.requeue import CannotRequeue, Overtaken
from tests.outside.conftest import DATA, LOCK, Outside
from tests.requeuing import Source
from tests.sockets import eventually

NO_DATA = {'size': None, 'virtual_size': None, 'checksum': None, 'os_hash_algo': None, 'os_hash_value': None}


@pytest.fixture
def database(outside: Outside) -> Iterator[GlanceDatabase]:
    opened = GlanceDatabase(outside.url)
    yield opened
    opened.close()


@pytest.fixture
def requeue(database: GlanceDatabase) -> DatabaseRequeue:
    return DatabaseRequeue(database)


def yes() -> bool:
    return True


# What failures leave, as the real Glance leaves it; every function makes an image and returns its id.

def rejected_content(outside: Outside) -> str:
    """The data is not what disk_format says: refused when all of it is stored, and a location leads to it."""
    image_id = outside.created(disk_format='qcow2')
    assert outside.put(image_id, DATA).status == 415
    image = outside.rows.image(image_id)
    assert (image['status'], image['locations']) == ('queued', ['active'])
    assert image['checksum'] is not None
    return image_id


def staged(outside: Outside) -> str:
    """Staged data whose import never came."""
    image_id = outside.created()
    assert outside.put(image_id, DATA, 'stage').status == 204
    assert outside.rows.status(image_id) == 'uploading'
    return image_id


def saving(outside: Outside) -> str:
    """As the worker of an upload leaves it that was killed; the test of the sweep kills one."""
    image_id = outside.created()
    outside.rows.set(image_id, status='saving')
    return image_id


def killed_by_v1(outside: Outside) -> str:
    """As v1 gives an image up: with the size and checksum that the client had announced."""
    image_id = outside.created()
    outside.rows.set(image_id, status='killed', size=999, checksum='0' * 32)
    return image_id


def lock_left(outside: Outside) -> str:
    """A lock and a dead host's name on an image that waits."""
    image_id = outside.created()
    for name, value in ((LOCK, 'no-task-of-this-id'), ('os_glance_stage_host', 'http://gone'),
                        ('os_glance_failed_import', 'fs'), ('os_glance_importing_to_stores', 'fs')):
        outside.rows.set_property(image_id, name, value)
    return image_id


def test_the_way_to_rejected_data_is_taken_away_by_a_retry_only(outside: Outside, requeue: DatabaseRequeue) -> None:
    """A sweep leaves it to whoever can delete the data: a guard in Glance's process."""
    image_id, hanging = rejected_content(outside), saving(outside)
    assert requeue.needed(image_id)
    assert requeue.among([image_id, hanging]) == {hanging}


@pytest.mark.parametrize('left_behind', [rejected_content, staged, saving, killed_by_v1, lock_left])
def test_what_a_failure_leaves_is_cleared_and_the_retry_works(
        outside: Outside, requeue: DatabaseRequeue, left_behind: Callable[[Outside], str]) -> None:
    image_id = left_behind(outside)
    outside.rows.set_property(image_id, 'my_own', 'stays')
    before, files = outside.rows.image(image_id), outside.files(image_id)
    assert requeue.needed(image_id)
    assert requeue.clear(image_id, yes)

    assert outside.rows.image(image_id) == before | {
        'status': 'queued', 'properties': {'my_own': 'stays'}, 'locations': [], **NO_DATA}
    assert outside.files(image_id) == files, 'files are not deleted from here'
    assert not requeue.needed(image_id)
    assert not requeue.clear(image_id, lambda: pytest.fail('nothing was to be done'))

    for path in files:
        # As an operator does it, where no guard in Glance's process does.
        path.unlink()
    outside.ask('PATCH', f'/v2/images/{image_id}', b'[{"op": "replace", "path": "/disk_format", "value": "raw"}]',
                {'Content-Type': 'application/openstack-images-v2.1-json-patch'})
    outside.assert_works_again(image_id)


def test_an_import_that_hangs_is_unlocked_and_writes_nothing_more(
        outside: Outside, requeue: DatabaseRequeue, database: GlanceDatabase) -> None:
    with Source(DATA, 1000).open() as source:
        image_id = outside.created()
        assert outside.start_import(image_id, source.method['uri']).status == 202
        eventually(lambda: outside.files(image_id), 'the download to begin')
        assert outside.rows.status(image_id) == 'importing'
        task_id = outside.rows.image(image_id)['properties'][LOCK]
        assert requeue.clear(image_id, yes)
        image = outside.rows.image(image_id)
        assert (image['status'], image['properties']) == ('queued', {})
        assert outside.rows.tasks(image_id) == [
            ('failure', 'The worker of this import is gone; the image was put back to queued')]
        seen = DatabaseTasks(database).look(image_id, outside.created_at(image_id), task_id)
        assert seen.task is not None and seen.task.ended
        source.break_off()
    # Its worker was alive all the while, and finds its lock gone.
    eventually(lambda: f'Failed to execute task {task_id}' in outside.server.log_text(), 'the import to end')
    assert outside.rows.status(image_id) == 'queued'


@pytest.mark.parametrize('status', ['active', 'deactivated', 'pending_delete', 'deleted'])
def test_an_image_that_has_data_or_is_deleted_is_never_touched(
        outside: Outside, requeue: DatabaseRequeue, status: str) -> None:
    image_id = outside.created()
    assert outside.put(image_id, DATA).status == 204
    # What would be remains on any other image: an import into further stores is under way on an active one.
    outside.rows.set_property(image_id, LOCK, 'task')
    outside.rows.set(image_id, status=status, deleted=status == 'deleted')
    before = outside.rows.image(image_id)
    assert not requeue.needed(image_id)
    assert not requeue.clear(image_id, yes)
    assert outside.rows.image(image_id) == before


def test_a_deleted_row_is_not_touched_whatever_its_status_says(outside: Outside, requeue: DatabaseRequeue) -> None:
    image_id = saving(outside)
    outside.rows.set(image_id, deleted=True)
    assert not requeue.needed(image_id) and not requeue.clear(image_id, yes)
    assert outside.rows.status(image_id) == 'saving'


def test_an_image_nobody_knows_and_one_that_is_clean(outside: Outside, requeue: DatabaseRequeue) -> None:
    image_id = outside.created()
    # What failed elsewhere is told by Glance and no remains.
    outside.rows.set_property(image_id, 'os_glance_failed_import', 'fs')
    for each in ('4711', image_id):
        assert not requeue.needed(each)
        assert not requeue.clear(each, lambda: pytest.fail('nothing was to be done'))


# Compare-and-set

class Steps:
    """Asked before each step that cannot be undone; does something at one of them, and may stop there."""

    def __init__(self, at: int, do: Callable[[], object] = lambda: None, stop: bool = False) -> None:
        self._at, self._do, self._stop = at, do, stop
        self.asked = 0

    def __call__(self) -> bool:
        self.asked += 1
        if self.asked == self._at:
            self._do()
            return not self._stop
        return True


def test_it_stops_as_soon_as_somebody_else_has_the_right(outside: Outside, requeue: DatabaseRequeue) -> None:
    """Up to then the lock went first, then the image was held; it is as dead as before, and the next begins anew."""
    image_id = lock_left(outside)
    seen = []
    for at in (1, 2, 2):
        with pytest.raises(Overtaken):
            requeue.clear(image_id, Steps(at, stop=True))
        image = outside.rows.image(image_id)
        seen.append((image['status'], LOCK in image['properties'], 'os_glance_stage_host' in image['properties']))
    assert seen == [('queued', True, True), ('queued', False, True), ('importing', False, True)]
    assert requeue.clear(image_id, yes)
    assert outside.rows.image(image_id)['status'] == 'queued'


@pytest.mark.parametrize('at', [1, 2])
def test_an_image_that_became_active_meanwhile_stays_so(outside: Outside, requeue: DatabaseRequeue, at: int) -> None:
    """Also when that is a worker's that woke up while the image was held."""
    image_id = saving(outside)
    steps = Steps(at, lambda: outside.rows.set(image_id, status='active', size=7))
    with pytest.raises(Overtaken):
        requeue.clear(image_id, steps)
    image = outside.rows.image(image_id)
    assert (image['status'], image['size']) == ('active', 7)


def test_while_it_is_held_neither_an_upload_nor_its_end_is_possible(
        outside: Outside, requeue: DatabaseRequeue) -> None:
    image_id = saving(outside)
    answers: list[int] = []
    steps = Steps(2, lambda: answers.append(outside.put(image_id, DATA).status))
    assert requeue.clear(image_id, steps)
    assert answers == [409]
    outside.assert_works_again(image_id)


def test_an_import_that_has_begun_meanwhile_is_left_alone(outside: Outside, requeue: DatabaseRequeue) -> None:
    image_id = rejected_content(outside)
    steps = Steps(1, lambda: outside.rows.set_property(image_id, LOCK, 'another'))
    with pytest.raises(Overtaken):
        requeue.clear(image_id, steps)
    image = outside.rows.image(image_id)
    assert (image['status'], image['properties'][LOCK], image['locations']) == ('queued', 'another', ['active'])


def test_many_at_once(outside: Outside, database: GlanceDatabase) -> None:
    image_id = lock_left(outside)
    done: list[bool] = []

    def clear() -> None:
        try:
            done.append(DatabaseRequeue(database).clear(image_id, yes))
        except Overtaken:
            done.append(False)

    threads = [threading.Thread(target=clear) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 4
    # All of them may have been in each other's way.
    DatabaseRequeue(database).clear(image_id, yes)
    assert not DatabaseRequeue(database).needed(image_id)
    assert (outside.rows.status(image_id), outside.rows.image(image_id)['properties']) == ('queued', {})


# Tasks

def test_tasks_are_found_and_read(outside: Outside, database: GlanceDatabase) -> None:
    tasks = DatabaseTasks(database)
    with Source(DATA).open() as source:
        image_id = outside.created()
        answer = outside.start_import(image_id, source.method['uri'])
        eventually(lambda: [status for status, _ in outside.rows.tasks(image_id)] == ['success'], 'the import to end')
    created_at = outside.created_at(image_id)
    task_id = tasks.find(image_id, [None, answer.headers['x-openstack-request-id']])
    seen = tasks.look(image_id, created_at, task_id)
    assert (seen.status, seen.size, seen.failed_stores) == ('active', len(DATA), ())
    assert seen.task is not None and (seen.task.status, seen.task.stores) == ('success', ('fs',))
    assert seen.changed == tasks.look(image_id, created_at, task_id).changed
    assert tasks.find(image_id, ['req-other']) is None
    assert tasks.look(image_id, '2001-01-01T00:00:00Z', task_id).status is None, 'an id that was used again'
    assert tasks.look('4711', created_at, None).status is None


# Other databases

PASSWORD = 's3cret'


@pytest.mark.parametrize('url', [
    f'postgresql://glance:{PASSWORD}@127.0.0.1:1/glance', f'mysql+pymysql://glance:{PASSWORD}@127.0.0.1:1/glance',
], ids=['postgresql', 'mariadb'])
def test_a_database_that_is_down(url: str) -> None:
    database = GlanceDatabase(url)
    with pytest.raises(GlanceUnavailable, match=r"Glance's database \(\w+ database glance at 127.0.0.1:1\)") as down:
        database.statuses(['4711'])
    assert PASSWORD not in str(down.value)
    with pytest.raises(CannotRequeue, match="^Glance's database does not answer.$"):
        DatabaseRequeue(database).needed('4711')


def test_a_file_that_is_not_there_is_not_made(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp('nothing') / 'glance.db'
    with pytest.raises(GlanceUnavailable, match='No such file'):
        GlanceDatabase(f'sqlite:///{path}').statuses(['4711'])
    assert not path.exists()


def test_a_database_of_somebody_else(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp('other') / 'other.db'
    path.touch()
    with pytest.raises(GlanceUnavailable, match='has not got the tables of Glance: see glance_connection'):
        GlanceDatabase(f'sqlite:///{path}').statuses(['4711'])
