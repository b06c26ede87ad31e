"""The frozen backbone, cut in two: a trunk that runs once and upper layers that are replayed per objective.

The cut needs no knowledge of the architecture. The upper layers are taken out of the model and `Tap`s put in their
places, which hand the hidden states through and remember with which arguments (mask, rotary embeddings, …) the model
called them; a tower then calls the real layers with exactly those arguments.

Shape suffixes: R rows, T tokens of a row, H hidden size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AutoModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from equipoise.common.errors import UserError
from equipoise.configs.schema import BackboneConfig
from equipoise.modeling.attention import prefix_split
from equipoise.modeling.base_config import is_encoder, load_model_config, reason_of
from equipoise.modeling.base_files import whole_weights
from equipoise.modeling.pretrained import load_pretrained
from equipoise.modeling.prompt_limit import first_position
from equipoise.modeling.quantized import pack, settle
from equipoise.modeling.tap import LayerCall, LayerForm, LeftOut, Tap

IMPLEMENTATIONS = {"split": prefix_split.NAME, "sdpa": "sdpa", "eager": "eager", "flex": "flex_attention"}
"""Our names of the kinds of attention → those under which transformers knows them."""


def stock_attention(config: Any) -> str:
    """The attention that transformers itself takes for this architecture: sdpa, or eager where it has nothing else."""
    return "sdpa" if getattr(MODEL_MAPPING.get(type(config), None), "_supports_sdpa", False) else "eager"


def choose_attention(wanted: str, config: Any) -> str:
    """The attention implementation, by transformers' name; `auto` is `split` where the architecture can.

    Elsewhere it is what transformers takes. An architecture without sdpa adds something to its scores (soft
    caps, sinks) that prefix-split attention cannot give either.

    Raises:
        UserError: the architecture cannot use the attention that is asked for.
    """
    stock = stock_attention(config)
    # Models that support the attention interface take any function that is registered with it.
    able = bool(getattr(MODEL_MAPPING.get(type(config), None), "_supports_attention_backend", False))
    able = able and stock == "sdpa" and getattr(config, "use_bidirectional_attention", None) is not True
    if wanted == "auto":
        return IMPLEMENTATIONS["split" if able else stock]
    if (wanted == "split" and not able) or (wanted == "sdpa" and stock != "sdpa"):
        raise UserError(
            f"backbone.attention: {config.model_type} cannot use '{wanted}': set backbone.attention={stock}"
        )
    return IMPLEMENTATIONS[wanted]


def load_backbone(backbone: BackboneConfig, seed: int = 0) -> nn.Module:
    """The base model without any head, frozen, in evaluation form (no dropout), with the configured attention.

    Raises:
        UserError: the weights cannot be loaded or are not complete, or the model cannot use that attention.
    """
    config = load_model_config(backbone)
    dtype = torch.bfloat16 if backbone.dtype == "bfloat16" else torch.float32
    attention = choose_attention(backbone.attention, config)
    if backbone.init == "random":
        with torch.random.fork_rng(devices=[]), whole_weights():  # pieces would not follow the seed
            torch.manual_seed(seed)
            try:
                model = AutoModel.from_config(config, dtype=dtype, attn_implementation=attention)
            except (AttributeError, ImportError, KeyError, NotImplementedError, TypeError, ValueError) as error:
                raise UserError(
                    f"backbone.path: no model can be built from '{backbone.path}' ({reason_of(error)})"
                ) from error
        if backbone.quantize:
            pack(model)
    else:
        model = load_pretrained(backbone, config, dtype, attention)
        if backbone.quantize:
            settle(model)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # candidates are pooled here, the stock pooler reads [CLS] only
    for module in model.modules():
        if hasattr(
            module, "attn_temperature_tuning"
        ):  # Llama 4: exactly 1 within `prompt_limit`, were it not for the row
            module.attn_temperature_tuning = False
    return model.requires_grad_(False)


def find_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The model's stack of transformer layers and its name: the one longest list of modules of one class.

    Raises:
        UserError: there is no such list.
    """
    expected = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == expected and len({type(m) for m in module}) == 1:
            return name, module
    raise UserError(
        f"backbone.path: the layers of {type(model).__name__} cannot be found (no list of {expected} layers of one "
        "class): choose a model whose layers stand in one nn.ModuleList"
    )


FINAL_NORMS = ("norm", "final_norm", "final_layer_norm", "final_layernorm", "ln_f", "norm_f")


def _final_norm(parent: nn.Module) -> str | None:
    """The name of the normalisation that follows the last layer; None where there is none."""
    norms = [name for name, child in parent.named_children() if "norm" in type(child).__name__.lower()]
    if len(norms) > 1:
        norms = [name for name in norms if name in FINAL_NORMS] if sum(n in FINAL_NORMS for n in norms) == 1 else norms
    if len(norms) > 1:
        raise UserError(
            f"backbone.path: {type(parent).__name__} has several normalisations beside its layers "
            f"({', '.join(norms)}), so its final one is unclear: choose another backbone"
        )
    return norms[0] if norms else None


def _embeds_positions(model: nn.Module, layers_name: str) -> bool:
    """Whether positions are told by what is added to embeddings, and not within the attention."""
    names = (name.lower() for name, _ in model.named_parameters() if not name.startswith(layers_name))
    return any("position" in name or name.startswith("wpe.") or ".wpe." in name for name in names)


class SplitBackbone(nn.Module):
    """A base model cut below layer `split`.

    `trunk` is the model with its upper layers tapped, `upper` the layers taken out, `norm` its final normalisation.
    `pooling` is what heads read of a candidate: its `last` token or, of encoders, the `mean` of its tokens. `layer_of`
    is the index of the layer that a module belongs to, counted in the whole model. `apart`: in the trunk candidates see
    themselves alone (as in PreTTR, MacAvaney et al. 2020); `restarts`: their positions begin at 0 then, since
    embeddings tell them, and what the trunk makes of a candidate is to be the same behind any prefix.

    Raises:
        UserError: the model cannot be cut there or read so.
    """

    def __init__(self, model: nn.Module, split: int, pooling: str = "last", apart: bool = False) -> None:
        super().__init__()
        self.config: Any = model.config
        self.encoder = is_encoder(model.config)
        if pooling == "mean" and not self.encoder:  # the stock classifiers that serve decoders read the last token
            raise UserError("backbone.pooling: mean is for encoders, decoders are read at the last token: set last")
        self.pooling, self.apart = pooling, apart
        self.layers_name, layers = find_layers(model)
        self.split = split
        self.first_position = first_position(model.config)
        self.restarts = apart and _embeds_positions(model, self.layers_name)
        parent_name, _, list_name = self.layers_name.rpartition(".")
        parent = model.get_submodule(parent_name)
        form = LayerForm(layers[split - 1])
        self.taps = [Tap(layer, form) for layer in layers[split:]]
        self.upper = nn.ModuleList(layers[split:])
        self.layer_of: dict[nn.Module, int] = {m: index for index, layer in enumerate(layers) for m in layer.modules()}
        norm_name = _final_norm(parent)
        self.norm = getattr(parent, norm_name) if norm_name else nn.Identity()
        cut: dict[str, nn.Module] = {list_name: nn.ModuleList([*layers[:split], *self.taps])}
        if norm_name:
            cut[norm_name] = LeftOut(self.norm, self.taps[-1])
        for name, module in cut.items():
            setattr(parent, name, module)
        # What stood there, in a tuple: these modules have their place in `trunk` and `upper` already.
        self._whole = (parent, {list_name: layers, **({norm_name: self.norm} if norm_name else {})}, cut)
        self._hollow = (list_name, nn.ModuleList([*(Tap(layer, form) for layer in layers[:split]), *self.taps]))
        self.trunk = model
        self._checked = False

    @property
    def attention(self) -> str:
        """The kind of attention in use: split, sdpa or flex."""
        names = {name: kind for kind, name in IMPLEMENTATIONS.items()}
        return names[self.config._attn_implementation]

    @contextmanager
    def using(self, attention: str) -> Iterator[None]:
        """Another kind of attention for a while."""
        before = self.config._attn_implementation
        self.config._attn_implementation = IMPLEMENTATIONS[attention]
        try:
            yield
        finally:
            self.config._attn_implementation = before

    @contextmanager
    def stock(self) -> Iterator[nn.Module]:
        """For a while, the base as transformers has built it, whole, with its adapters and its own attention."""
        parent, whole, cut = self._whole
        for name, module in whole.items():
            setattr(parent, name, module)
        try:
            with self.using(stock_attention(self.config)):
                yield self.trunk
        finally:
            for name, module in cut.items():
                setattr(parent, name, module)

    def encode(
        self, input_ids_RT: torch.Tensor, position_ids_RT: torch.Tensor, mask: Any = None, **arguments: Any
    ) -> torch.Tensor:
        """Run embeddings and the lower layers; returns z of shape (R, T, H) and leaves the layer calls in the taps.

        Args:
            input_ids_RT, position_ids_RT: int64.
            mask: what the attention in use takes as its mask.
            arguments: further ones for every layer.
        """
        out = self.trunk(
            input_ids=input_ids_RT,
            position_ids=position_ids_RT + self.first_position,
            attention_mask=mask,
            use_cache=False,
            **arguments,
        )
        z_RTH = out.last_hidden_state
        tapped = self.taps[0].hidden
        if tapped is None:
            raise UserError("backbone.path: this backbone does not run its layers one after another: choose another")
        if not self._checked:
            if not torch.equal(tapped, z_RTH):
                raise UserError("backbone.path: this backbone changes its states after the last layer: choose another")
            self._checked = True
        return z_RTH

    def calls_of(self, input_ids_RT: torch.Tensor, position_ids_RT: torch.Tensor, **arguments: Any) -> list[LayerCall]:
        """How the model would call its upper layers for these tokens; the layers below are left out."""
        parent, _, cut = self._whole
        list_name, hollow = self._hollow
        setattr(parent, list_name, hollow)
        try:
            self.encode(input_ids_RT, position_ids_RT, **arguments)
        finally:
            setattr(parent, list_name, cut[list_name])
        return self.calls()

    def calls(self) -> list[LayerCall]:
        """How the model called its upper layers in the last `encode`."""
        return [tap.call for tap in self.taps]

    def run_upper(self, index: int, call: LayerCall, hidden_RTH: torch.Tensor) -> torch.Tensor:
        """Run upper layer `index` (0 is layer `split` of the model) as the model itself would have called it."""
        out = self.upper[index](hidden_RTH, *call.args, **call.kwargs)
        return out[0] if isinstance(out, tuple) else out

    def clear(self) -> None:
        """Forget the tapped calls of the last batch."""
        for tap in self.taps:
            tap.clear()
