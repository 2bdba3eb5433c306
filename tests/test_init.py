"""The package's front door."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ablationlens as al

HOSTS = ("transformer_lens", "nnsight", "captum", "plotly", "transformers")


def test_importing_the_package_loads_no_host_and_no_plotting_library() -> None:
    code = f"import sys, ablationlens; print([name for name in {HOSTS!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_adapting_a_plain_module_loads_none_either() -> None:
    code = (
        "import sys, torch, ablationlens as al\n"
        "adapter = al.adapt(torch.nn.Linear(3, 4), example=torch.zeros(1, 3))\n"
        "model = al.MaskedModel(adapter, adapter.registry('row'), output=al.Logit(0))\n"
        "al.leave_one_out(model, al.batch(torch.ones(2, 3)))\n"
        f"print([name for name in {HOSTS!r} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


PUBLIC = [
    "Ablation",
    "AblationLensError",
    "AblationTable",
    "Adapter",
    "AdapterError",
    "AllMasks",
    "Architecture",
    "Attribution",
    "AttributionByPosition",
    "Balanced",
    "Basis",
    "Batch",
    "Bernoulli",
    "Ceiling",
    "Comparison",
    "Completeness",
    "Component",
    "ConfigError",
    "Counterfactual",
    "CrossEntropy",
    "CustomSite",
    "Design",
    "Dictionary",
    "Domains",
    "Drift",
    "Explanation",
    "Faithfulness",
    "GaussianNoise",
    "InputError",
    "KL",
    "LeaveOneOut",
    "Logit",
    "LogitDifference",
    "Margin",
    "MaskedModel",
    "Mean",
    "MissingExtraError",
    "Output",
    "OverlapError",
    "Paths",
    "Pattern",
    "PatternMass",
    "Registry",
    "Resample",
    "Scale",
    "Scores",
    "Site",
    "SquaredError",
    "Stability",
    "StoreError",
    "Subset",
    "Tap",
    "TapOutput",
    "UnknownNameError",
    "Zero",
    "ablation_table",
    "activation_patching",
    "adapt",
    "attention_patterns",
    "attention_summary",
    "attribute",
    "attribution_patching",
    "batch",
    "ceiling",
    "coar",
    "compare",
    "completeness",
    "conductance",
    "custom_site",
    "direct_effect",
    "domains",
    "drift",
    "evaluate",
    "explain",
    "faithfulness",
    "gradient_x_parameter",
    "integrated_gradients",
    "internal_influence",
    "leave_one_out",
    "normalised",
    "path_gradient",
    "plots",
    "report",
    "shapley",
    "spd",
    "stability",
    "studies",
    "zoo",
]


def test_no_public_name_is_missing_here() -> None:
    modules = ("importlib", "annotations", "TYPE_CHECKING", "Any")
    own = {name for name in dir(al) if not name.startswith("_") and name not in modules}
    submodules = {name for name in own if type(getattr(al, name)).__name__ == "module"} - set(PUBLIC)
    assert own - submodules == set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_exist(name: str) -> None:
    assert getattr(al, name) is not None
    assert name in dir(al)


def test_report_is_the_function() -> None:
    assert callable(al.report)
    assert al.zoo.load("domains").name == "domains"


def test_other_names_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="no attribute 'coarse'"):
        _ = al.coarse  # type: ignore[attr-defined]


def test_the_version_is_that_of_the_project() -> None:
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert al.__version__ == project["version"]
