"""What a run's folder tells without PyTorch: its configuration, and the data it was trained on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tinydigits.data.dataset import (
    Dataset,
    DataSource,
    check_fingerprint,
    is_own,
    load_dataset,
    relabeled,
)
from tinydigits.errors import Failure, UsageError
from tinydigits.files import expand, read_json
from tinydigits.network.checkpoint import Description, refuse_other_version
from tinydigits.training.config import Config


def read_config(folder: Path) -> Config:
    """The configuration of the run in `folder`.

    Raises:
        UsageError: `folder` is not a run folder, or another version made it.
        Failure: its configuration is damaged.
    """
    path = folder / "config.json"
    if not path.exists():
        raise UsageError(f"{folder} holds no config.json, so there is no run in it.")
    refuse_other_version(folder)
    values = read_json(path)
    known = {field.name for field in dataclasses.fields(Config)}
    if isinstance(values, dict) and (newer := sorted(values.keys() - known)):
        raise Failure(
            f"{path} has the field {newer[0]}, which this version of tinydigits does not know: "
            "take the newer one that made the run."
        )
    try:
        return Config.from_json(values)
    except UsageError as error:
        raise Failure(f"{path} is damaged: {error}") from error


def at_its_place(config: Config, folder: Path, data: Path | None) -> Config:
    """The configuration of a run, with its data where they are now.

    Args:
        config: as it was read from the run's folder.
        folder: the run's.
        data: where its data have gone, if they have moved.

    Raises:
        UsageError: they are not where they were, and `data` doesn't say where they are.
    """
    if data is not None:
        root = expand(data).resolve()
        name = config.dataset
        if not name and config.data is not None and is_own(DataSource(root)):
            name = config.data.name  # what they were called, wherever they are
        return dataclasses.replace(config, data=root, dataset=name)
    if config.data is not None and not config.data.exists():
        raise UsageError(
            f"{config.data}, which {folder} was trained on, is gone: bring it back, or name the "
            "place of the same data by --data."
        )
    return config


def data_of_run(model_path: Path, description: Description, data: Path | None) -> Dataset:
    """The data that a trained network was trained on, at their place or in the folder `data`.

    Raises:
        UsageError: they are gone, or nobody knows what it was trained on.
        Failure: they are others.
    """
    if data is None:
        return dataset_of(model_path, description, DataSource())
    folder = model_path.parent
    if not (folder / "config.json").exists():
        return relabeled(load_dataset(DataSource(expand(data))), description.class_names)
    config = at_its_place(read_config(folder), folder, data)
    source = dataclasses.replace(config.data_source, validation=False)
    return checked(load_dataset(source), model_path, description, source)


def checked(
    dataset: Dataset, model_path: Path, description: Description, source: DataSource
) -> Dataset:
    """A data set, in the order of a network's classes, if the network was trained on it.

    Raises:
        Failure: it is another.
    """
    summary = model_path.with_name("summary.json")
    if not dataset.is_mnist and summary.exists():
        before = read_json(summary).get("data_sha256")
        check_fingerprint(dataset, before, model_path.parent, source)
    return relabeled(dataset, description.class_names)


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
        UsageError: the network tells other classes apart, or nobody knows what it was trained on.
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
        raise UsageError(
            "--dataset and --as-is are about the folder of a data set: name it by --data."
        )
    if trained_on.root is not None and not trained_on.root.exists():
        if not description.of_mnist:
            at_its_place(read_config(model_path.parent), model_path.parent, None)
        trained_on = DataSource()  # MNIST is the same wherever it is
    if not is_own(trained_on) and not description.of_mnist:
        raise UsageError(
            f"{model_path} was not trained on MNIST: name the folder of its run, or one with "
            "pictures of its classes by --data."
        )
    return checked(load_dataset(trained_on), model_path, description, trained_on)


def source_of(model_path: Path, description: Description) -> DataSource:
    """What the run that a model file lies in was trained on, all of it; MNIST for a file alone.

    Raises:
        UsageError: another version made the run.
        Failure: its configuration is damaged, and needed to know what the network was trained on.
    """
    folder = model_path.parent
    if not (folder / "config.json").exists():
        return DataSource()
    try:
        return dataclasses.replace(read_config(folder).data_source, validation=False)
    except UsageError:
        raise
    except Failure:
        if not description.of_mnist:
            raise
        return DataSource()


def is_same(root: Path, other: Path | None) -> bool:
    """Whether two paths lead to the same place."""
    return other is not None and expand(root).resolve() == expand(other).resolve()
