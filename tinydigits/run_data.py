"""The data that a trained network is measured on: those of its run, or others."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tinydigits.config import read_config
from tinydigits.data.dataset import (
    Dataset,
    DataSource,
    check_fingerprint,
    is_own,
    load_dataset,
    relabeled,
)
from tinydigits.files import Failure, Misuse, expand, read_json
from tinydigits.modelfile import Description


def dataset_of(model_path: Path, description: Description, source: DataSource) -> Dataset:
    """The data set to measure a trained network on: that of its run, or another.

    Args:
        model_path: the network's file; in a run folder config.json is beside it.
        description: which network it is.
        source: where another data set is; without a root, that of the run is meant. A folder of
            pictures without the parts train and test is measured on as a whole.

    Returns:
        The data set, its labels counted as the network counts its classes.

    Raises:
        Misuse: the network tells other classes apart, or nobody knows what it was trained on.
        Failure: the data of the run are not what they were; else as `load_dataset`.
    """
    trained_on = source_of(model_path, description)
    if source.root is not None and not is_same(source.root, trained_on.root):
        other = DataSource(
            root=source.root,
            name=source.name or trained_on.name,
            as_is=source.as_is or trained_on.as_is,
        )
        return relabeled(load_dataset(other, to_train=False), description.class_names)
    if source.root is None and (source.name or source.as_is):
        raise Misuse("--dataset and --as-is are about the folder of a data set: name it by --data.")
    if trained_on.root is not None and not trained_on.root.exists():
        if not description.of_mnist:
            raise Misuse(
                f"{trained_on.root}, which {model_path.parent} was trained on, is gone: bring it "
                "back, or name other data of its classes by --data."
            )
        trained_on = DataSource()  # MNIST is the same wherever it is
    if not is_own(trained_on) and not description.of_mnist:
        raise Misuse(
            f"{model_path} was not trained on MNIST: name the folder of its run, or one with "
            "pictures of its classes by --data."
        )
    dataset = load_dataset(trained_on)
    summary = model_path.with_name("summary.json")
    if not dataset.is_mnist and summary.exists():
        before = read_json(summary).get("data_sha256")
        check_fingerprint(dataset, before, model_path.parent, trained_on)
    return relabeled(dataset, description.class_names)


def source_of(model_path: Path, description: Description) -> DataSource:
    """What the run that a model file lies in was trained on, all of it; MNIST for a file alone.

    Raises:
        Failure: its configuration is damaged, and needed to know what the network was trained on.
    """
    try:
        if model_path.with_name("config.json").exists():
            source = read_config(model_path.parent).data_source
            return dataclasses.replace(source, validation=False)
    except Failure:
        if not description.of_mnist:
            raise
    return DataSource()


def is_same(root: Path, other: Path | None) -> bool:
    """Whether two paths lead to the same place."""
    return other is not None and expand(root).resolve() == expand(other).resolve()
