"""Hash models on Hugging Face's hub, or in a folder as they are there: config.json, model.safetensors and README.md.

    HubHashModel.from_checkpoint("checkpoints/hash/openmoji_hash.pth").push_to_hub("me/openmoji-hash")
    model = HubHashModel.from_pretrained("me/openmoji-hash")                # or the path of a folder
    codes, x = model.encode(text=features)
"""

from __future__ import annotations

import errno
import os

from common.packages import optional
from exporting import card
from indexing.encoding import load_model
from model import HashModel

with optional("requirements-export.txt"):
    import safetensors.torch  # the mixin does without it, and then saves nothing
    from huggingface_hub import ModelCard, PyTorchModelHubMixin


class HubHashModel(HashModel, PyTorchModelHubMixin):
    """A hash model with ``from_pretrained``, ``save_pretrained`` and ``push_to_hub``.

    ``about`` is what the model card says: the arguments of :func:`card.render`.
    """

    about: dict = {}

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike, **about) -> HubHashModel:
        """The model of a checkpoint; ``about`` is added to what the checkpoint says, such as ``license="mit"``.

        Raises InputError if it isn't a hash model of nested codes or of one code length.
        """
        trained, content = load_model(path)
        model = cls(**trained.settings)
        model.load_state_dict(trained.state_dict())
        model.about = {"trained": content, **about}
        return model.eval()

    def save_pretrained(self, *arguments, **options) -> str | None:
        """Save the model to a folder. Raises OSError if the disk refuses it."""
        try:
            return super().save_pretrained(*arguments, **options)
        except safetensors.SafetensorError as error:  # its word for a full disk
            raise OSError(errno.EIO, str(error)) from error

    def generate_model_card(self, **more) -> ModelCard:
        """The README.md that is saved with the model."""
        return ModelCard(card.render(self.settings, ["model.safetensors"], **{**self.about, **more}))
