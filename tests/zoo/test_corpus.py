"""The texts that installed packages ship: names, cleaning, and the division into training and held-out files."""

from __future__ import annotations

import pytest

from ablationlens.zoo import corpus


@pytest.fixture(scope="module", params=corpus.DOMAINS)
def divided(request: pytest.FixtureRequest) -> tuple[str, dict[str, str], dict[str, str]]:
    return (request.param, *corpus.split(request.param))


def test_training_and_held_out_files_share_neither_names_nor_contents(
    divided: tuple[str, dict[str, str], dict[str, str]],
) -> None:
    _, training, held_out = divided
    assert training and held_out
    assert not training.keys() & held_out.keys()
    assert not set(training.values()) & set(held_out.values())
    assert len(set(held_out.values())) == len(held_out)


def test_held_out_files_do_not_repeat_the_training_files(
    divided: tuple[str, dict[str, str], dict[str, str]],
) -> None:
    _, training, held_out = divided
    known = {line.strip() for text in training.values() for line in text.split("\n") if len(line.strip()) >= 20}
    lines = [line.strip() for text in held_out.values() for line in text.split("\n") if len(line.strip()) >= 20]
    assert sum(len(line) for line in lines if line in known) < 0.3 * sum(map(len, lines))


def test_every_held_out_file_was_held_out_by_the_rule(divided: tuple[str, dict[str, str], dict[str, str]]) -> None:
    domain, _, held_out = divided
    assert all(corpus.held_out_by_rule(domain, name) for name in held_out)


def test_names_are_free_of_machines_and_versions() -> None:
    names = [name for domain in corpus.DOMAINS for name in corpus.candidates(domain)]
    assert not [name for name in names if name.startswith("/") or ".." in name or "\\" in name]
    assert not [name for name in names if "site-packages" in name or "_sysconfigdata" in name]
    assert not [name for name in names if ".dist-info/" in name]


@pytest.mark.parametrize(
    "name",
    [
        "stdlib/no_such_module.py",
        "no_such_package/a.py",
        "dist-info/no-such-package/METADATA",
        "dist-info/tqdm/NOTHING",
    ],
)
def test_a_file_that_is_not_installed_reads_as_none(name: str) -> None:
    assert corpus.read(name) is None


def test_metadata_is_read_without_its_headers() -> None:
    text = corpus.read("dist-info/tqdm/METADATA")
    assert text is not None
    assert "Metadata-Version" not in text
    assert "progress" in text


def test_the_digest_depends_on_names_texts_and_their_boundary() -> None:
    digests = {corpus.digest(files) for files in ([("a", "bc")], [("ab", "c")], [("a", "b"), ("c", "")], [])}
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("name", "distribution"),
    [
        ("stdlib/argparse.py", "python"),
        ("dist-info/tqdm/METADATA", "tqdm"),
        ("sklearn/datasets/data/iris.csv", "scikit-learn"),
        ("transformer_lens/tools/a.json", "transformer-lens"),
    ],
)
def test_distribution_of(name: str, distribution: str) -> None:
    assert corpus.distribution_of(name) == distribution
