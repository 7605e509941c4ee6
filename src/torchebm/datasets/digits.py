r"""Handwritten digits that ship with scikit-learn: real images without a download."""

from typing import Any

import torch

from .data import Data

__all__ = ["digits"]


def digits() -> Data:
    """The 1,797 handwritten digits of scikit-learn, 8 by 8 pixels in 0..16, with their classes; read from the disk.

    Returns:
        Images `[1797, 1, 8, 8]` in float32, labels `[1797]`, bounds (0, 16).
    Raises:
        ImportError: If scikit-learn is not installed.
    References: Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits, https://doi.org/10.24432/C50P49

    Example:
        >>> data = digits()
        >>> data.event_shape, len(data), data.bounds
        ((1, 8, 8), 1797, (0.0, 16.0))
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('the digits come with scikit-learn: pip install "torchebm[data]"') from error
    bundle: Any = load_digits()
    images = torch.from_numpy(bundle.images).float().unsqueeze(1)  # [1797, 1, 8, 8]
    labels = torch.from_numpy(bundle.target).long()
    return Data(images, "image", "digits", labels, bounds=(0.0, 16.0), classes=tuple("0123456789"))
