"""FinalMLP: Mao et al., "FinalMLP: an enhanced two-stream MLP model for CTR prediction", 2023
(arXiv:2304.00902).

Two MLPs read the same features through gates of their own; a bilinear form of their outputs, in
several heads, makes the logit.
"""

import torch
from pydantic import Field
from torch import nn

from core.errors import UserError
from core.merlin import Schema, Tags
from training.batches import Inputs
from training.ranking.click_model import ClickModel, assemble
from training.ranking.layers import FlatFeatures, mlp, required_inputs
from training.ranking.settings import DeepSettings, Width

LEARNED_CONTEXT = 16
"""Width of the learned vector of a gate without context columns."""


class FinalMLPSettings(DeepSettings):
    """The two streams."""

    first_mlp: list[Width] = Field([400, 400], min_length=1)
    """Widths of the first stream."""

    second_mlp: list[Width] = Field([400, 400], min_length=1)
    """Widths of the second stream."""

    gates: bool = True
    """Whether each stream has a gate on its features; without, the streams differ in their
    weights alone."""

    gate_mlp: list[Width] = Field([64])
    """Widths of the gates' MLPs before their last layer, which has a unit a feature."""

    first_context: tuple[str, ...] = ()
    """Columns that the first stream's gate depends on; none: a learned vector."""

    second_context: tuple[str, ...] = ()
    """Columns that the second stream's gate depends on; none: a learned vector."""

    heads: int = Field(2, ge=1)
    """Parts that both streams' outputs are cut into for the bilinear form."""


class FeatureGate(nn.Module):
    """Features times 2σ(MLP(context)): at the start, about as they are.

    Args:
        width: of the features.
        context: features of the context columns; None: a learned vector in their place.
    """

    def __init__(
        self, width: int, context: FlatFeatures | None, settings: FinalMLPSettings
    ) -> None:
        super().__init__()
        self.context = context
        if context is None:
            self.vector = nn.Parameter(torch.zeros(1, LEARNED_CONTEXT))
        hidden = LEARNED_CONTEXT if context is None else context.width
        layers: list[nn.Module] = []
        for units in settings.gate_mlp:
            layers += [nn.Linear(hidden, units), nn.ReLU()]
            hidden = units
        self.net = nn.Sequential(*layers, nn.Linear(hidden, width))

    def forward(self, features: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        """``(batch, width)`` → the same shape."""
        context = self.vector if self.context is None else self.context(inputs)
        return features * 2 * torch.sigmoid(self.net(context))


class BilinearFusion(nn.Module):
    """w₁·x + w₂·y + Σ_heads x_hᵀ W_h y_h / √(size of W_h) + b.

    The paper's form but for the root, by which its many weights, moved together, do not throw the
    logit about; a W_h / √(size) is the paper's W_h.

    Args:
        first: width of x, a multiple of ``heads``.
        second: width of y, likewise.
    """

    def __init__(self, first: int, second: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first = nn.Linear(first, 1)
        self.second = nn.Linear(second, 1, bias=False)
        self.bilinear = nn.Parameter(torch.empty(heads, first // heads, second // heads))
        self.root = (first // heads * (second // heads)) ** 0.5
        # Xavier's variance for a layer from all products to the logit.
        nn.init.normal_(self.bilinear, 0.0, (2 / (self.bilinear.numel() + 1)) ** 0.5 * self.root)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """``(batch, first)`` and ``(batch, second)`` → ``(batch, 1)``."""
        x_heads = x.unflatten(1, (self.heads, -1))
        y_heads = y.unflatten(1, (self.heads, -1))
        pairs = torch.einsum("bhi,hij,bhj->b", x_heads, self.bilinear, y_heads) / self.root
        return self.first(x) + self.second(y) + pairs.unsqueeze(1)


class FinalMLP(nn.Module):
    """Two gated streams and their fusion."""

    def __init__(self, schema: Schema, settings: FinalMLPSettings) -> None:
        super().__init__()
        self.features = FlatFeatures(schema, settings)
        self.gates = nn.ModuleList()
        if settings.gates:
            inputs = schema.excluding_by_tag(Tags.TARGET)
            for names in (settings.first_context, settings.second_context):
                chosen = inputs.select_by_name(list(names))
                context = FlatFeatures(chosen, settings) if names else None
                self.gates.append(FeatureGate(self.features.width, context, settings))
        self.first = mlp(settings.first_mlp, settings)
        self.second = mlp(settings.second_mlp, settings)
        self.fusion = BilinearFusion(
            settings.first_mlp[-1], settings.second_mlp[-1], settings.heads
        )

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """→ logits ``(batch, 1)``."""
        features = self.features(inputs)
        gated = [gate(features, inputs) for gate in self.gates] or [features, features]
        return self.fusion(self.first(gated[0]), self.second(gated[1]))


def build(schema: Schema, settings: FinalMLPSettings) -> ClickModel:
    """A FinalMLP on the schema's CATEGORICAL and CONTINUOUS columns.

    Raises:
        UserError: heads that do not divide a stream's last layer, or a context column that the
            features lack.
    """
    required_inputs(schema, "finalmlp")
    inputs = schema.excluding_by_tag(Tags.TARGET)
    for setting in ("first_context", "second_context"):
        for name in getattr(settings, setting):
            if name not in inputs.column_names:
                raise UserError(
                    f"model finalmlp: ranking.finalmlp.{setting}: the features have no column "
                    f"{name}; there are {', '.join(inputs.column_names)}"
                )
    for setting in ("first_mlp", "second_mlp"):
        last = getattr(settings, setting)[-1]
        if last % settings.heads:
            raise UserError(
                f"model finalmlp: ranking.finalmlp.{setting} ends in {last} units, which "
                f"ranking.finalmlp.heads {settings.heads} does not divide"
            )
    return assemble("finalmlp", FinalMLP(schema, settings), schema, settings)
