"""The errors that a user of the library may want to catch.

Every message says what was expected, what came, and what to type instead.
"""

from __future__ import annotations


class AblationLensError(Exception):
    """Any error that the library raises on purpose."""


class InputError(AblationLensError, ValueError):
    """An argument is wrong: a shape, a range, an unknown name, an option that does not exist."""


class UnknownNameError(InputError, KeyError):
    """A kind, layer, module, component or hook point that the model does not have.

    The message names the nearest valid ones.
    """

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return Exception.__str__(self)


class OverlapError(InputError):
    """Two sites of one registry cut the same weight in ways that cannot be combined."""


class AdapterError(AblationLensError):
    """The model cannot be adapted as asked: compiled, folded, a module called twice, a site that never fires."""


class StoreError(AblationLensError):
    """A store on disk belongs to another run, is damaged, or could not be written."""


class ConfigError(InputError):
    """A run configuration is wrong; the message names the field and the choices."""


class MissingExtraError(AblationLensError, ImportError):
    """An optional dependency is not installed; the message names the extra to install."""
