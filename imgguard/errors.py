"""The exceptions of the guard, under one base."""


class ImgguardError(Exception):
    """Base of every exception the guard raises by itself."""


class ConfigurationError(ImgguardError):
    """An option, a paste section or a missing extra stops the load; the text says which and what to do."""


class StoreUnavailable(ImgguardError):
    """The guard's own database could not be read or written; ``__cause__`` says why."""


class GlanceUnavailable(ImgguardError):
    """Glance's own database could not be read or written from outside Glance; ``__cause__`` says why."""
