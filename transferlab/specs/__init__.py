"""The vocabulary: what is trained, on what, from what and how, as frozen dataclasses.

Everything here is a value. It serialises to canonical JSON, and the first 16 hexadecimal digits of the SHA-256 of that
JSON are its key: equal trials are run once, ever. Whatever changes a result is therefore a field, and whatever does not
(the device, the number of workers, what is measured) is not. A field that is ``None`` is left out of the JSON, so a new
field that defaults to ``None`` leaves every old key, and every old record, as it was.

Nothing here imports torch.
"""

from .artefacts import Artefact, Features, Pretrained, Trained
from .data import WHOLE, ImageSet, Source, Subset, Target, Weights
from .method import Measure, Method, Regulariser
from .networks import AlexNet, Backbone, ResNet, Torchvision
from .recipe import Recipe
from .selection import DeepFeatures, Duplicates, FirstConvolutions, Gabor, Neighbours, Selection
from .serial import OneOf, Spec
from .task import Detection, MultiLabel, Task
from .trial import Trial
