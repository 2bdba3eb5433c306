"""Figures of attributions and of their scores. Each function returns a plotly figure: `.show()` it, or save it."""

from ablationlens.plots.heat_maps import heads as heads
from ablationlens.plots.heat_maps import layers as layers
from ablationlens.plots.ranking import ranking as ranking
from ablationlens.plots.scores import correlation as correlation
from ablationlens.plots.scores import predicted_vs_true as predicted_vs_true
from ablationlens.plots.theme import DARK as DARK
from ablationlens.plots.theme import LIGHT as LIGHT
from ablationlens.plots.theme import Theme as Theme
