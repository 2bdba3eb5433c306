"""Figures of attributions and of their scores. Each function returns a plotly figure: `.show()` it, or save it."""

from ablationlens.plots.agreement import agreement as agreement
from ablationlens.plots.agreement import scatter as scatter
from ablationlens.plots.ceiling import ceiling as ceiling
from ablationlens.plots.completeness import completeness as completeness
from ablationlens.plots.faithfulness import deletion_insertion as deletion_insertion
from ablationlens.plots.faithfulness import faithfulness as faithfulness
from ablationlens.plots.heat_maps import heads as heads
from ablationlens.plots.heat_maps import layers as layers
from ablationlens.plots.histogram import histogram as histogram
from ablationlens.plots.ranking import ranking as ranking
from ablationlens.plots.scores import correlation as correlation
from ablationlens.plots.scores import predicted_vs_true as predicted_vs_true
from ablationlens.plots.study_curves import fit_alpha as fit_alpha
from ablationlens.plots.study_curves import model_effect as model_effect
from ablationlens.plots.study_curves import sample_size as sample_size
from ablationlens.plots.study_groups import ablation_method as ablation_method
from ablationlens.plots.study_groups import out_of_distribution as out_of_distribution
from ablationlens.plots.study_groups import output_function as output_function
from ablationlens.plots.theme import DARK as DARK
from ablationlens.plots.theme import LIGHT as LIGHT
from ablationlens.plots.theme import Theme as Theme
