"""How far to trust an attribution."""

from ablationlens.evaluate.agreement import agreement as agreement
from ablationlens.evaluate.agreement import pearson as pearson
from ablationlens.evaluate.held_out import design_of as design_of
from ablationlens.evaluate.held_out import evaluate as evaluate
from ablationlens.evaluate.held_out import held_out_masks as held_out_masks
from ablationlens.evaluate.scores import Scores as Scores
