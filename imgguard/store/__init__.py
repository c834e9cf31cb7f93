"""The guard's own store: what is known of images and attempts. The only room that knows its SQL."""

from imgguard.store.rows import AttemptRow
from imgguard.store.store import Store

__all__ = ['AttemptRow', 'Store']
