"""Float architectures, and the loader for torchvision's, timm's and the user's own."""

from eqnet.models.loader import load_model
from eqnet.models.mobilenet import SmallMobileNet
from eqnet.models.resnet20 import ResNet20
from eqnet.models.weights import load_weights

__all__ = ["ResNet20", "SmallMobileNet", "load_model", "load_weights"]
