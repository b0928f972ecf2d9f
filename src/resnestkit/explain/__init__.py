"""What the attention of a net does on images: as numbers, as pictures, and as a page."""

from resnestkit.explain.folder import FolderStatistics, explain_folder
from resnestkit.explain.forcing import force
from resnestkit.explain.picture import ImageExplanation, explain_image
from resnestkit.explain.sites import Attention, find_sites
from resnestkit.explain.subject import Subject, open_subject, subject_of
from resnestkit.explain.watching import watch

__all__ = [
    "Attention",
    "FolderStatistics",
    "ImageExplanation",
    "Subject",
    "explain_folder",
    "explain_image",
    "find_sites",
    "force",
    "open_subject",
    "subject_of",
    "watch",
]
