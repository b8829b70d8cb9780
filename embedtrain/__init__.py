"""embedtrain: train word2vec embeddings with a native core, and use them in PyTorch.

>>> import embedtrain
>>> embeddings = embedtrain.Word2Vec(dim=100).fit("corpus.txt")
>>> embeddings.most_similar("king")
>>> layer = embeddings.to_torch(freeze=False)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from embedtrain.errors import EmbedtrainError

if TYPE_CHECKING:
    from embedtrain.checkpoint import load
    from embedtrain.embeddings import Embeddings
    from embedtrain.reading import read
    from embedtrain.training_state import Checkpoints
    from embedtrain.vocabulary import Vocab
    from embedtrain.word2vec import Word2Vec

__all__ = ["Checkpoints", "Embeddings", "EmbedtrainError", "Vocab", "Word2Vec", "load", "read"]
__version__ = "0.1.0"

# torch takes a second to import; whoever asks for --help or mistypes an option should not wait for it.
_HOMES = {
    "Checkpoints": "training_state",
    "Embeddings": "embeddings",
    "Vocab": "vocabulary",
    "Word2Vec": "word2vec",
    "load": "checkpoint",
    "read": "reading",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"embedtrain.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'embedtrain' has no attribute {name!r}")
