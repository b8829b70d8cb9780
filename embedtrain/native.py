"""The one place that loads the native core and says what to do when it is not there."""

from __future__ import annotations

from embedtrain.errors import EmbedtrainError

try:
    from embedtrain import _native as core
except ImportError as error:
    raise EmbedtrainError(
        f"the native core of embedtrain is not built for this Python ({error}); "
        "install it with `pip install .` (or `pip install -e .`) in the folder of embedtrain; that needs a C++ compiler"
    ) from error

__all__ = ["core"]
