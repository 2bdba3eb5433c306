"""How far to trust an attribution."""

from ablationlens.evaluate.agreement import agreement as agreement
from ablationlens.evaluate.agreement import pearson as pearson
from ablationlens.evaluate.ceiling import Ceiling as Ceiling
from ablationlens.evaluate.ceiling import ceiling as ceiling
from ablationlens.evaluate.compare import compare as compare
from ablationlens.evaluate.comparison import Comparison as Comparison
from ablationlens.evaluate.completeness import Completeness as Completeness
from ablationlens.evaluate.completeness import completeness as completeness
from ablationlens.evaluate.curves import Faithfulness as Faithfulness
from ablationlens.evaluate.faithfulness import faithfulness as faithfulness
from ablationlens.evaluate.held_out import design_of as design_of
from ablationlens.evaluate.held_out import evaluate as evaluate
from ablationlens.evaluate.held_out import held_out_masks as held_out_masks
from ablationlens.evaluate.scores import Scores as Scores
