"""What a model runs in: PyTorch, PyTorch with products in 8-bit integers, or onnxruntime."""

from typing import Literal, get_args

Backend = Literal["torch", "torch-int8", "onnx", "onnx-int8"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
