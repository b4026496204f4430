"""``--model hf:PATH_OR_NAME``: a Hugging Face transformers model as a network that gives one tensor.

A model with a classification head gives its logits (batch, classes). A plain encoder gives its last hidden state (batch,
positions, width), zero at the positions that are padding; its pooler, which the hidden state does not need, is left out.
"""

import contextlib
import inspect
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from autoslim.errors import UserError
from autoslim.inputs import Inputs

ARGUMENTS = ("length",)
#: {end of the architecture's name in config.json: what loads it}; heads for pre-training are left out
LOADERS = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForImageClassification": "AutoModelForImageClassification",
    "ForMaskedLM": "AutoModel",
    "ForPreTraining": "AutoModel",
    "Model": "AutoModel",
}


class Texts(nn.Module):
    """``network`` on token numbers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """All inputs (batch, positions); logits (batch, classes) or hidden states (batch, positions, width)."""
        kinds = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        found = self.network(input_ids=input_ids, attention_mask=attention_mask, **kinds)
        if "logits" in found:
            return found.logits
        return found.last_hidden_state * attention_mask.unsqueeze(-1).to(found.last_hidden_state.dtype)


class Images(nn.Module):
    """``network`` on pixels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Pixels (batch, channels, height, width); logits (batch, classes) or the last hidden state."""
        found = self.network(pixel_values=pixel_values)
        return found.logits if "logits" in found else found.last_hidden_state


FORMS = {"input_ids": Texts, "pixel_values": Images}


def model(name: str, data: str, length: str = "") -> nn.Module:
    """The pretrained network in float32. Raises UserError for what cannot be loaded, or lacks weights."""
    loader = _loader(name)
    net, told = loaded(loader, name, output_loading_info=True)
    if loader == "AutoModel" and "add_pooling_layer" in inspect.signature(type(net).__init__).parameters:
        net.pooler = None
    missing = sorted(key for key in told["missing_keys"] if key.partition(".")[0] != "pooler" or getattr(net, "pooler", None) is not None)
    if missing:
        raise UserError(f"--model: hf:{name} lacks the weights of {len(missing)} parameters ({missing[0]}, ...); they must all be trained")
    if net.main_input_name not in FORMS:
        raise UserError(f"--model: hf:{name} takes {net.main_input_name}, allowed: {', '.join(FORMS)}; for anything else write a task")
    net.config.use_cache = False
    return FORMS[net.main_input_name](net.float())


def example_input(name: str, data: str, length: str = "") -> Inputs:
    """A dict with a batch of one, as forward() takes it."""
    return _inputs(name).example(name, length)


def data(split: str, name: str, data: str, length: str = "") -> Iterator[tuple[Inputs, Tensor | None]]:
    """Batches of (dict of inputs, class numbers or None)."""
    return _inputs(name).batches(split, name, data, length)


def text(name: str) -> dict[str, Any] | None:
    """Which numbers are no words, by the tokenizer; None for networks that read images."""
    inputs = _inputs(name)
    return inputs.text(name) if hasattr(inputs, "text") else None


def library() -> ModuleType:
    """The package transformers, loaded when it is needed; raises UserError if it is not installed."""
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise UserError(f"--model: hf:... needs the package {error.name!r}; pip install 'autoslim[hf]'") from None
    return transformers


def loaded(loader: str, name: str, **options: Any) -> Any:
    """``transformers.LOADER.from_pretrained(name)``; nothing is fetched for a folder, and no code of the folder is run.
    Raises UserError in one line."""
    transformers = library()
    try:
        with _quiet(transformers):
            return getattr(transformers, loader).from_pretrained(
                name, local_files_only=Path(name).is_dir(), trust_remote_code=False, **options
            )
    except Exception as error:  # a folder of any content: transformers raises whatever its parts raise
        why = " ".join(str(error).split())[:200]
        raise UserError(f"--model: hf:{name} cannot be loaded by {loader} ({type(error).__name__}: {why})") from error


@lru_cache(maxsize=2)
def config(name: str) -> Any:
    return loaded("AutoConfig", name)


def is_encoder(name: str) -> bool:
    """Whether the network has no classes."""
    return _loader(name) == "AutoModel"


def _loader(name: str) -> str:
    """The name of the class that loads the network; raises UserError for heads and forms that are not supported."""
    architecture = next(iter(config(name).architectures or ()), "Model")
    found = next((loader for end, loader in LOADERS.items() if architecture.endswith(end)), None)
    paired = getattr(config(name), "is_encoder_decoder", False)
    if found is None or paired:
        kind = f"{architecture}{' (an encoder with a decoder)' if paired else ''}"
        raise UserError(
            f"--model: hf:{name} is a {kind}, allowed: encoders whose names end in {', '.join(LOADERS)}; for anything else write a task"
        )
    return found


def _inputs(name: str) -> ModuleType:
    """The file that makes the network's inputs."""
    from autoslim.tasks import _huggingface_images, _huggingface_texts

    return _huggingface_texts if hasattr(config(name), "vocab_size") else _huggingface_images


@contextlib.contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """No progress bars and no advice while loading; the library's settings are as before afterwards."""
    talk = transformers.utils.logging
    level, bars = talk.get_verbosity(), talk.is_progress_bar_enabled()
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    try:
        yield
    finally:
        talk.set_verbosity(level)
        if bars:
            talk.enable_progress_bar()
