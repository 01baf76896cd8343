__version__ = "0.1.0"

from neuralode_resnet.docstrings import describe_names

describe_names(__name__)
