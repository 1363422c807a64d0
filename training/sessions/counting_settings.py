"""Settings of the session models that count instead of learning by gradient, without torch."""

from typing import ClassVar, Literal

from pydantic import Field

from training.model_settings import ModelSettings

Weighting = Literal["same", "div", "linear", "quadratic", "log"]


class CountingSettings(ModelSettings):
    """Training is one pass, in which the size of the batches changes nothing but the speed."""

    engine_defaults: ClassVar = {"batch_size": 4096}


class PopularSettings(CountingSettings):
    """The popularity floor has nothing to set."""


class RecentlyPopularSettings(CountingSettings):
    """Popularity that fades with time."""

    half_life_hours: float = Field(6.0, gt=0)
    """An event counts half as much as one of a session that started this many hours later."""


class PrefixSettings(CountingSettings):
    """What the models have that look back over the session."""

    max_length: int = Field(50, ge=2)
    """Events before the one to predict that the model sees; older ones are left out."""


class SessionPopularSettings(PrefixSettings):
    """The items of the session itself, then the popular ones."""

    decay: float = Field(0.5, gt=0, le=1)
    """What an event counts beside the one after it: 1 counts events, which is S-POP; less prefers
    late ones."""


class NeighbourSettings(PrefixSettings):
    """Items that go together."""

    neighbours: int = Field(100, ge=1)
    """Items kept for each item, the strongest ones."""
    decay: float = Field(0.3, ge=0, le=1)
    """What an event of the session counts beside the one after it; 0: the last one alone."""


class ItemKNNSettings(NeighbourSettings):
    """Cosine of the sessions that two items occur in."""

    weighting: Weighting = "div"
    """What a pair counts by its distance d in the session: same: 1, which is the cosine; div: 1/d;
    linear: 1 - (d - 1)/10; quadratic: 1/d²; log: 1/log10(d + 1.7)."""
    regularisation: float = Field(20.0, ge=0)
    """Added to the number of events of each item, so that rare pairs do not look similar."""
    alpha: float = Field(0.75, ge=0, le=1)
    """How the two items share the normalisation: 0.5 is the cosine; more divides by the item that
    is viewed, less by the one that is recommended (popular ones are then held back more)."""


class AssociationRulesSettings(NeighbourSettings):
    """Which item occurs in the same session, at any place."""


class SequentialRulesSettings(NeighbourSettings):
    """Which item occurs later in the session."""

    steps: int = Field(10, ge=1)
    """How many events later the second item may come."""
    weighting: Weighting = "div"
    """What a pair counts by its distance, by the same names as in item_knn."""


class VSkNNSettings(PrefixSettings):
    """Which sessions are like this one, and what they held.

    As its authors have it: ``similarity: dot, weighting: div, score_weighting: div, idf: 0,
    closeness: 1, earlier: 1``.
    """

    k: int = Field(500, ge=1)
    """Neighbours: the most similar sessions, whose items are recommended."""
    sample_size: int = Field(2000, ge=1)
    """Sessions that are compared: the latest of those that share an item with this one. Older ones
    are not kept."""
    weighting: Weighting = "linear"
    """What an event at place i of n counts in the similarity: same: 1; div: i/n; linear:
    1 - (n - i)/10; quadratic: (i/n)²; log: 1/log10(n - i + 1.7)."""
    score_weighting: Weighting = "quadratic"
    """What a neighbour counts by how many events ago, from 1, this session last saw an item of it:
    by the same names as in item_knn."""
    similarity: Literal["dot", "cosine"] = "cosine"
    """dot: the sum of the shared items' weights; cosine: divided by the square root of the
    neighbour's number of items, so that long sessions are not similar to all."""
    idf: float = Field(1.0, ge=0)
    """How much items of few sessions count more: an item's score is multiplied by
    1 + idf · log(sessions / sessions with it)."""
    closeness: float = Field(0.8, gt=0, le=1)
    """What a neighbour's item counts beside one that stands an event closer to the item that this
    session saw last of it; 1: all the same."""
    earlier: float = Field(0.5, ge=0, le=1)
    """What the items before that one count beside those after it."""
