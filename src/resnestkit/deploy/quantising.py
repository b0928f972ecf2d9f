"""Quantisation after training, by NNCF, and the measure of what it costs.

NNCF looks at a few hundred training images to learn the range of every map, and writes weights and
maps as numbers of 8 bits, weights by a scale for each channel. OpenVINO gets its own form of that,
ONNX Runtime the graph with QuantizeLinear and DequantizeLinear (QDQ). The cost is measured on
images that were held out, against the same file in float32. If it is more than the user allows,
NNCF ranks the layers by how much they suffer, and leaves one more in float32 until it is not.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnestkit.data.images import ImageSet, MemoryImages
from resnestkit.data.loaders import Batches, InOrder, TransformedImages, choose_workers
from resnestkit.data.transforms import EvaluationTransform, normalise
from resnestkit.deploy.quantisers import Quantiser
from resnestkit.errors import UserError
from resnestkit.progress import Reporter
from resnestkit.runtime.card import DeployCard
from resnestkit.runtime.loading import load
from resnestkit.runtime.openvino_core import signal_stack_kept

Sample = tuple[NDArray[np.float32], NDArray[np.int64]]
"""A batch of normalised images, and their labels."""

_RANKED = 16
"""Batches by which layers are ranked."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What quantising cost, on the same images."""

    images: int
    float32: float
    """Share of the images that the file in float32 names rightly."""
    int8: float
    """The same of the quantised file."""
    agreement: float
    """Share of the images that both give the same class."""

    @property
    def drop(self) -> float:
        """Of the accuracy; below 0 where int8 is better by chance."""
        return self.float32 - self.int8


class Samples:
    """Batches of normalised images with their labels, as often as somebody goes through them.

    Where a file takes batches of one size alone, the last is filled up by its last image.
    """

    def __init__(self, images: ImageSet, card: DeployCard, batch: int) -> None:
        self.count, self._preprocessing = len(images), card.preprocessing
        self._size = card.input.batch
        self._order = InOrder(len(images), self._size or batch)
        self._batches = Batches(
            TransformedImages(images, EvaluationTransform(card.preprocessing), None),
            self._order,
            choose_workers(None, in_memory=isinstance(images, MemoryImages)),
        )

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Sample]:
        for batch in self._batches:
            images = normalise(batch.images, self._preprocessing).contiguous().numpy()
            lacking = 0 if self._size is None else self._size - len(images)
            filled = np.concatenate([images, np.repeat(images[-1:], lacking, axis=0)])
            yield filled, batch.labels.numpy()


@dataclass(frozen=True, slots=True)
class Work:
    """Quantising one file, and measuring it."""

    quantiser: Quantiser
    learnt: Samples
    held: Samples
    max_drop: float
    reporter: Reporter

    def run(self, source: Path, made: Path) -> tuple[Cost, dict[str, bool]]:
        """Write the file in int8; its cost, and its layers by name: whether each is in int8.

        Raises UserError if the bound was not met.
        """
        self.reporter.say(f"quantising  by {self.learnt.count} images")
        quantised = self._quantise(source)
        cost = self._finish(quantised, source, made)
        if cost.drop > self.max_drop:
            self.reporter.say(
                f"restoring   accuracy: int8 throughout loses {cost.drop:.2%}, and "
                f"{self.max_drop:.2%} is allowed"
            )
            quantised = self._restore(source)
            cost = self._finish(quantised, source, made)
        if cost.drop > self.max_drop:
            raise UserError(
                f"No layer could be quantised so that less than {self.max_drop:.2%} of the "
                f"accuracy is lost: {cost.float32:.2%} became {cost.int8:.2%}. Nothing was written."
            )
        return cost, self.quantiser.layers(quantised)

    def _quantise(self, source: Path) -> Any:
        return self._correcting(
            lambda nncf, fast: nncf.quantize(
                self.quantiser.read(source),
                nncf.Dataset(self.learnt, self._feed),
                subset_size=len(self.learnt),
                fast_bias_correction=fast,
                advanced_parameters=_settings(nncf),
            )
        )

    def _restore(self, source: Path) -> Any:
        """Quantise again, but the layers that suffer most, one more until the bound is met."""
        return self._correcting(
            lambda nncf, fast: nncf.quantize_with_accuracy_control(
                self.quantiser.read(source),
                nncf.Dataset(self.learnt, self._feed),
                nncf.Dataset(self.held, self._feed),
                self._validate,
                max_drop=self.max_drop,
                drop_type=nncf.DropType.ABSOLUTE,
                subset_size=len(self.learnt),
                fast_bias_correction=fast,
                advanced_quantization_parameters=_settings(nncf),
                advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
                    ranking_subset_size=_RANKED
                ),
            )
        )

    def _correcting(self, quantise: Callable[[Any, bool], Any]) -> Any:
        """Correct biases layer by layer, and where NNCF cannot, all at once.

        It cuts the graph after each layer, and some cuts it gets wrong: ONNX's of SKNet (3.4).
        """
        with nncf_at_work() as nncf:
            try:
                return quantise(nncf, False)
            except UserError:
                raise
            except Exception as error:  # of the runtime that was given the wrong cut
                reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        self.reporter.say(
            f"biases      are corrected all at once: layer by layer failed ({reason})"
        )
        with nncf_at_work() as nncf:
            return quantise(nncf, True)

    def _feed(self, sample: Sample) -> Any:
        return self.quantiser.feed(sample[0])

    def _validate(
        self, model: Any, samples: Iterable[Sample]
    ) -> tuple[float, list[float] | list[list[Any]]]:
        """Accuracy; and for each batch what NNCF ranks layers by: the logits, or the accuracy."""
        run = self.quantiser.prepare(model)
        right: list[int] = []
        counts: list[int] = []
        outputs = []
        for images, labels in samples:
            logits = run(images)
            right.append(int((logits[: len(labels)].argmax(1) == labels).sum()))
            counts.append(len(labels))
            outputs.append([logits])
        accuracy = sum(right) / sum(counts)
        if self.quantiser.ranks_by_outputs:
            return accuracy, outputs
        return accuracy, [one / count for one, count in zip(right, counts, strict=True)]

    def _finish(self, quantised: Any, source: Path, made: Path) -> Cost:
        """Write what NNCF gave, finished; what it costs."""
        self.quantiser.finish(quantised)
        self.quantiser.write(quantised, made)
        return self._measure(source, made)

    def _measure(self, source: Path, made: Path) -> Cost:
        """Both files on the held-out images, side by side, in float32 but for what is in int8."""
        runs = [load(path) for path in (source, made)]
        right = np.zeros(len(runs), np.int64)
        equal = 0
        with self.reporter.track("measuring", self.held.count) as advance:
            for images, labels in self.held:
                best = np.stack([run(images)[0][: len(labels)].argmax(1) for run in runs])
                right += (best == labels).sum(1)
                equal += int((best[0] == best[1]).sum())
                advance(len(labels), "")
        count = self.held.count
        before, after = (right / count).tolist()
        return Cost(count, before, after, equal / count)


@contextmanager
def nncf_at_work() -> Iterator[Any]:
    """NNCF, which neither reports what it is used for nor talks of what it does."""
    os.environ.setdefault("NNCF_CI", "1")  # else it tells its makers, unasked
    # It imports torch's compiler of extensions, which warns where there is no CUDA.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    # Its bars are many, and it makes cores of OpenVINO's own.
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), signal_stack_kept():
        warnings.simplefilter("ignore")  # what its imports deprecate
        import nncf  # noqa: PLC0415  (an extra, and slow to import)

        nncf.set_log_level(logging.ERROR)
        yield nncf


def _settings(nncf: Any) -> Any:
    """Ranges by histogram, which leave rare large values out.

    With biases corrected layer by layer, and not all at once, they keep 99% of the decisions of a
    small ResNeSt on CIFAR-10, where NNCF's usual settings keep 97%.
    """
    ranges = nncf.quantization.range_estimator.RangeEstimatorParametersSet.HISTOGRAM
    return nncf.AdvancedQuantizationParameters(activations_range_estimator_params=ranges)
