"""The exceptions of the guard, under one base."""


class ImgguardError(Exception):
    """Base of every exception the guard raises by itself."""


class ConfigurationError(ImgguardError):
    """An option, a paste section or a missing extra stops the load; the text says which and what to do."""


class StoreUnavailable(ImgguardError):
    """The guard's own database could not be read or written; ``__cause__`` says why."""


class GlanceUnavailable(ImgguardError):
    """Glance, or its database, did not answer to who asks from outside; ``__cause__`` or the text says why."""
