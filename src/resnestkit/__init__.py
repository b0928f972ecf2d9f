"""ResNeSt and the family it grew from: readable, trainable, checked, and ready to use.

Importing this package imports nothing else: each name below loads its room when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnestkit.deploy.detection_predictor import DetectionPredictor, Detections
    from resnestkit.deploy.export import export
    from resnestkit.deploy.panoptic_predictor import PanopticPrediction, PanopticPredictor
    from resnestkit.deploy.predictor import Prediction, Predictor
    from resnestkit.deploy.quantise import quantise
    from resnestkit.deploy.segmentation_predictor import Segmentation, SegmentationPredictor
    from resnestkit.detection.compiled import compile_detector
    from resnestkit.detectors import create_detector, load_detector, save_detector
    from resnestkit.errors import UserError
    from resnestkit.explain.folder import explain_folder
    from resnestkit.explain.picture import explain_image
    from resnestkit.factory import create_model, load_model, save_model
    from resnestkit.models.insert import insert_attention
    from resnestkit.models.spec import NetSpec
    from resnestkit.models.zoo import list_models
    from resnestkit.panoptics import create_panoptic, load_panoptic, save_panoptic
    from resnestkit.plugins.hub import fetch_from_hub, from_hub, push_to_hub
    from resnestkit.plugins.timm_registry import register_with_timm
    from resnestkit.runtime.session import open_session
    from resnestkit.segmenters import create_segmenter, load_segmenter, save_segmenter
    from resnestkit.training.evaluate import evaluate
    from resnestkit.training.recipe import (
        DetectionRecipe,
        PanopticRecipe,
        Recipe,
        SegmentationRecipe,
        load_recipe,
    )
    from resnestkit.training.train import TrainResult, resume, train

__version__ = "0.1.0"

_HOMES = {
    "DetectionPredictor": "deploy.detection_predictor",
    "Detections": "deploy.detection_predictor",
    "NetSpec": "models.spec",
    "Prediction": "deploy.predictor",
    "Predictor": "deploy.predictor",
    "DetectionRecipe": "training.recipe",
    "PanopticPrediction": "deploy.panoptic_predictor",
    "PanopticPredictor": "deploy.panoptic_predictor",
    "PanopticRecipe": "training.recipe",
    "Recipe": "training.recipe",
    "Segmentation": "deploy.segmentation_predictor",
    "SegmentationPredictor": "deploy.segmentation_predictor",
    "SegmentationRecipe": "training.recipe",
    "TrainResult": "training.train",
    "UserError": "errors",
    "compile_detector": "detection.compiled",
    "create_detector": "detectors",
    "create_model": "factory",
    "create_panoptic": "panoptics",
    "create_segmenter": "segmenters",
    "evaluate": "training.evaluate",
    "explain_folder": "explain.folder",
    "explain_image": "explain.picture",
    "export": "deploy.export",
    "fetch_from_hub": "plugins.hub",
    "from_hub": "plugins.hub",
    "insert_attention": "models.insert",
    "list_models": "models.zoo",
    "load_detector": "detectors",
    "load_model": "factory",
    "load_panoptic": "panoptics",
    "load_recipe": "training.recipe",
    "load_segmenter": "segmenters",
    "open_session": "runtime.session",
    "push_to_hub": "plugins.hub",
    "quantise": "deploy.quantise",
    "register_with_timm": "plugins.timm_registry",
    "resume": "training.train",
    "save_detector": "detectors",
    "save_model": "factory",
    "save_panoptic": "panoptics",
    "save_segmenter": "segmenters",
    "train": "training.train",
}

__all__ = [
    "DetectionPredictor",
    "DetectionRecipe",
    "Detections",
    "NetSpec",
    "PanopticPrediction",
    "PanopticPredictor",
    "PanopticRecipe",
    "Prediction",
    "Predictor",
    "Recipe",
    "Segmentation",
    "SegmentationPredictor",
    "SegmentationRecipe",
    "TrainResult",
    "UserError",
    "compile_detector",
    "create_detector",
    "create_model",
    "create_panoptic",
    "create_segmenter",
    "evaluate",
    "explain_folder",
    "explain_image",
    "export",
    "fetch_from_hub",
    "from_hub",
    "insert_attention",
    "list_models",
    "load_detector",
    "load_model",
    "load_panoptic",
    "load_recipe",
    "load_segmenter",
    "open_session",
    "push_to_hub",
    "quantise",
    "register_with_timm",
    "resume",
    "save_detector",
    "save_model",
    "save_panoptic",
    "save_segmenter",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'resnestkit' has no attribute {name!r}")
    return getattr(import_module(f"resnestkit.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
