"""Studies: what an attribution depends on, each one function and one figure of the same name in `al.plots`.

They are those of the COAR paper's appendix (arXiv 2404.11534), for any method. Each says what it will cost before it
starts, and returns a table with 95% intervals, the values of every example, and a record of how it was made::

    study = al.studies.fit_alpha(model, data, fit_alphas=[0.02, 0.05, 0.1])
    study.table()
    al.plots.fit_alpha(study).show()

By default they attribute with `al.path_gradient`, which needs some hundred draws where COAR needs thousands.
"""

from ablationlens.evaluate.studies.ablation_method import AblationMethod as AblationMethod
from ablationlens.evaluate.studies.ablation_method import ablation_method as ablation_method
from ablationlens.evaluate.studies.base import Study as Study
from ablationlens.evaluate.studies.fit_alpha import FitAlpha as FitAlpha
from ablationlens.evaluate.studies.fit_alpha import fit_alpha as fit_alpha
from ablationlens.evaluate.studies.model_effect import ModelEffect as ModelEffect
from ablationlens.evaluate.studies.model_effect import model_effect as model_effect
from ablationlens.evaluate.studies.out_of_distribution import OutOfDistribution as OutOfDistribution
from ablationlens.evaluate.studies.out_of_distribution import out_of_distribution as out_of_distribution
from ablationlens.evaluate.studies.output_function import OutputFunction as OutputFunction
from ablationlens.evaluate.studies.output_function import output_function as output_function
from ablationlens.evaluate.studies.sample_size import SampleSize as SampleSize
from ablationlens.evaluate.studies.sample_size import sample_size as sample_size
