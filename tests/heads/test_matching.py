"""Which tube is chosen follows what is trained: a loss of weight 0 takes part neither in matching nor in the answer."""

from __future__ import annotations

import math

import pytest
import torch

from stvg.cache.batches.batch import Targets
from stvg.cache.index import Cache
from stvg.evaluate.evaluation import load_head, open_split, tubes_of
from stvg.heads.fsm.losses import LossConfig
from stvg.heads.fsm.matching import match_tubes
from stvg.heads.losses import Criterion
from stvg.heads.model import LayerOutput, Output
from stvg.heads.settings import load_experiment
from stvg.heads.training.loop import train
from stvg.heads.training.state import Run

CPU = torch.device("cpu")
# Of a wide target: the first candidate is nearest in coordinates, the second overlaps best, the third has the best score.
TARGET = torch.tensor([0.5, 0.5, 0.02, 0.02])
CANDIDATES = torch.tensor([[0.5, 0.53, 0.02, 0.02], [0.5, 0.5, 0.06, 0.06], [0.2, 0.2, 0.3, 0.3]])
SCORES = torch.tensor([-3.0, -2.0, 4.0])


@pytest.mark.parametrize(
    ("weights", "chosen"),
    [
        ({"l1": 5, "giou": 0, "label": 0}, 0),
        ({"l1": 0, "giou": 2, "label": 0}, 1),
        ({"l1": 0, "giou": 0, "label": 0.2}, 2),
        ({"l1": 5, "giou": 2, "label": 0}, 1),
        ({"l1": 1, "giou": 1, "label": 100}, 2),
        ({"l1": 0, "giou": 0, "label": 0}, 0),
    ],
    ids=str,
)
def test_the_matched_tube_is_the_best_in_what_the_losses_weigh(weights, chosen):
    boxes = CANDIDATES[None, :, None].expand(1, 3, 2, 4).clone().requires_grad_()
    score, inside = SCORES[None, :, None].expand(1, 3, 2), torch.ones(1, 2, dtype=torch.bool)
    target = TARGET.expand(1, 2, 4)
    assert match_tubes(boxes, score, target, inside, **weights).tolist() == [chosen]
    span = torch.zeros(1, 3, 2, 2, requires_grad=True)
    layer = LayerOutput(boxes, span, score, torch.full((1, 3, 2, 2), 0.5), torch.zeros(1, 3, 2, 8))
    targets = Targets(target, inside, torch.tensor([[0, 1]]), torch.ones(1, 2))
    terms = Criterion(LossConfig(**weights, aux=False))(Output.of([layer]), targets, ~inside)
    terms["span"].backward()
    assert (span.grad.abs().sum((0, 2, 3)) > 0).nonzero().flatten().tolist() == [chosen]


def test_scores_that_nothing_trains_do_not_sway_the_match_even_as_nan():
    boxes = CANDIDATES[None, :, None]
    score, inside = torch.full((1, 3, 1), math.nan), torch.ones(1, 1, dtype=torch.bool)
    assert match_tubes(boxes, score, TARGET.view(1, 1, 4), inside, label=0).tolist() == [1]


@pytest.mark.parametrize(("label", "asked"), [(0, False), (0.2, True)])
def test_without_a_label_loss_the_untrained_scores_choose_no_tube(tiny_cache, tmp_path, label, asked):
    settings = ["model.num_queries=3", f"loss.label={label}", "train.epochs=0"]
    cache = Cache.open(tiny_cache)
    checkpoint = train(Run(tmp_path, cache, load_experiment("tiny", settings), "train", CPU))
    head = load_head(checkpoint, CPU)
    torch.manual_seed(0)
    for drawn in (head.model.head.class_embed, head.model.head.query_embed):  # candidates that differ in their scores
        torch.nn.init.normal_(drawn.weight, std=3)
    tubes = tubes_of(head.model, open_split(head, cache, "test"), 8, CPU).values()
    assert ({t.query for t in tubes} != {0}) == asked
    assert ({t.score for t in tubes} != {1.0}) == asked


def test_without_a_label_loss_training_leaves_the_scores_alone(tiny_cache, tmp_path):
    settings = ["model.num_queries=3", "loss.label=0", "train.epochs=1", "train.batch_size=37"]
    run = Run(tmp_path, Cache.open(tiny_cache), load_experiment("tiny", settings), "train", CPU)
    before = run.model.head.class_embed.weight.detach().clone()
    lines = []
    train(run, report=lines.append)
    assert torch.equal(run.model.head.class_embed.weight, before)
    assert "label" not in lines[-1]
