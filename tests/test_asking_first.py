"""The store is asked before an answer is parsed where the answer shows the very image of the path."""

import json
from collections.abc import Sequence
from typing import Any, cast

import pytest

from imgguard.images import Caller
from imgguard.presenter import Presenter
from imgguard.settings import Settings
from imgguard.store import Store
from imgguard.wsgi import Captured

SOMEBODY = Caller('user', 'project', False, None, None)


class Asked:
    """A store that knows of nothing, and tells what it was asked for."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def records(self, ids: Sequence[str]) -> dict[Any, Any]:
        self.ids += ids
        return {}


@pytest.mark.parametrize('properties', [
    {}, {'x"id': 'ABC'}, {'x, "id': 'ABC'}, {'x': ', "id": "ABC"'}, {'x\\"id': 'ABC'},
    {'locations': [{'url': 'file:///x', 'metadata': {'x': 'y', 'id': 'ABC'}}]}])
@pytest.mark.parametrize('path', ['abc', 'ABC'])
def test_a_glance_on_mariadb_may_mean_an_image_of_another_spelling(path: str, properties: dict[str, Any]) -> None:
    image = {**properties, 'status': 'queued', 'id': 'abc', 'created_at': '2026-11-22T22:19:29Z'}
    answer = Captured.held('200 OK', [('Content-Type', 'application/json')], None, json.dumps(image).encode())
    store = Asked()
    Presenter(cast(Store, store), cast(Settings, None), cast(Any, None)).present(answer, SOMEBODY, path)
    assert store.ids == ['abc']
