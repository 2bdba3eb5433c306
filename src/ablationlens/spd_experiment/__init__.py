"""What ablating heads and rank-one components does, in the modes of a decomposition: `al.spd.ablation_experiment`."""

from ablationlens.spd_experiment.asked import Ablate as Ablate
from ablationlens.spd_experiment.experiment import ablation_experiment as ablation_experiment
from ablationlens.spd_experiment.result import AblationExperiment as AblationExperiment
from ablationlens.spd_experiment.slices import Restricted as Restricted
from ablationlens.spd_experiment.whole import Whole as Whole
