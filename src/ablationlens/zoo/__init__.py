"""Small trained models that come with the library: `load("domains")`, `load("induction")`.

Importing this package imports no host library; a model is read from disk when its `.model` or `.bridge()` is asked for.
"""

from ablationlens.zoo.loader import ZooModel as ZooModel
from ablationlens.zoo.loader import load as load
