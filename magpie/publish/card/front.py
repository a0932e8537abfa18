"""The front matter of a card: what the Hub lists and filters by, and what `datasets` reads a repository with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from magpie.escaping import harmless
from magpie.publish.card.measures import Measures, Size
from magpie.publish.card.terms import Terms
from magpie.publish.source import RAW, Part, Source

if TYPE_CHECKING:
    from huggingface_hub import DatasetCardData

CONFIG_NAMES = {"": ("default", "pairs"), RAW: ("raw",)}
"""What the configurations of each part are called: that of its rows, and that of the pairs among the kept ones."""

_LANGUAGE = re.compile(r"[a-z]{2,3}")
_LEAST_SHARE = 0.001  # of the rows, for a language to be listed
_STEPS = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
          (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B"),
          (10**12, "100B<n<1T"))  # fmt: skip


def size_category(rows: int) -> str:
    """The Hub's word for so many rows."""
    return next((name for limit, name in _STEPS if rows < limit), "n>1T")


def languages(measures: Measures) -> list[str]:
    """The languages that were measured in at least one row of a thousand, the most frequent first."""
    counted: Mapping[str | None, int] = measures.counts.get("language", {})
    return [
        language
        for language, count in sorted(counted.items(), key=lambda pair: (-pair[1], str(pair[0])))
        if language is not None and _LANGUAGE.fullmatch(language) and count >= _LEAST_SHARE * measures.rows
    ]


def front_matter(
    source: Source, parts: Sequence[Part], sizes: Mapping[str, Size], measures: Measures, terms: Terms
) -> DatasetCardData:
    """All of it, as huggingface_hub's own type, which checks it. `sizes` are by the prefixes of the parts."""
    from huggingface_hub import DatasetCardData

    tags = [
        "synthetic",
        "magpie",
        *(("preference", "dpo") if source.has_pairs else ("sft", "instruction-tuning")),
    ]
    data = DatasetCardData(
        pretty_name=source.name,
        language=languages(measures) or None,
        size_categories=[size_category(sum(part.manifest.rows for part in parts[:1]))],
        task_categories=["text-generation"],
        tags=tags,
        # A row may name its licence, and a row is anybody's.
        **{key: harmless(value) if isinstance(value, str) else value for key, value in terms.front().items()},
    )
    data.configs = [config for part in parts for config in configs_of(part)]
    _add_info(data, parts, sizes)
    return data


def configs_of(part: Part) -> list[dict[str, Any]]:
    """The configurations of a part, as `datasets` reads them."""
    names = CONFIG_NAMES[part.prefix]
    columns = part.configs(names)
    configs: list[dict[str, Any]] = []
    for name, shown in columns.items():
        config: dict[str, Any] = {
            "config_name": name,
            "data_files": [{"split": "train", "path": f"{part.prefix}train-*.parquet"}],
        }
        if name == "default":
            config["default"] = True
        if len(columns) > 1:
            config["columns"] = shown
        configs.append(config)
    return configs


def _add_info(data: DatasetCardData, parts: Sequence[Part], sizes: Mapping[str, Size]) -> None:
    """Add `dataset_info`: the features and sizes of each configuration, written by `datasets` itself."""
    import datasets
    from datasets.info import DatasetInfosDict

    infos = DatasetInfosDict()
    for part in parts:
        size = sizes[part.prefix]
        for name, columns in part.configs(CONFIG_NAMES[part.prefix]).items():
            features = datasets.Features.from_arrow_schema(
                pa.schema([part.schema.field(each) for each in columns])
            )
            splits = datasets.SplitDict()
            splits.add(datasets.SplitInfo("train", num_bytes=size.bytes, num_examples=size.rows))
            infos[name] = datasets.DatasetInfo(
                features=features,
                splits=splits,
                download_size=size.file_bytes,
                dataset_size=size.bytes,
                config_name=name,
            )
    infos.to_dataset_card_data(data)
