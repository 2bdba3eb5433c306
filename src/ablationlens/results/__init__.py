"""What methods return: labelled arrays with the registry that they belong to and a record of how they were made.

An `Attribution` has one weight for each component; an `AttributionByPosition` one for each component at each position.
They are two types, so that nothing which adds up or draws weights of components can be handed weights of positions.
"""

from ablationlens.results.by_component import Attribution as Attribution
from ablationlens.results.by_component import attribution as attribution
from ablationlens.results.by_position import AttributionByPosition as AttributionByPosition
from ablationlens.results.by_position import attribution_by_position as attribution_by_position
from ablationlens.results.by_position import of_components as of_components
